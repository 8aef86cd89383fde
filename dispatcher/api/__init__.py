"""The Python API: what ``dispatcher.NotificationService`` and its asyncio twin are made of."""
