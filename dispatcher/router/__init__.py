"""The router: from the public sockets to the shards and back, without a notification's content in sight.

What happens to a notification here, and where:

1. it is read from ``submit``, and decoded as far as its request goes (``requests``), or from ``ingest``
2. it is taken, or refused with its whole batch (``submits``, ``ingest``)
3. its message is cut into pieces, one per shard (``splitter``), which are gathered into frames (``gathering``)
4. its frame is numbered and kept (``link``), and sent until its shard has it on disk (``links``)
5. the shard reports so, with its verdict (``settling``); with the last of its frames, the submit has its receipt
   (``receipts``) and is answered (``answers``)

Other requests are asked of shards and the collector (``queries``) or of the supervisor (``reloads``), or come from the
workers of attached channels (``workers``).
"""
