"""The same in asyncio: a hundred notifications at once, and an ``async for`` over what arrives.

Prints:

    100 receipts
    the first to arrive: Message ...
    the last cursor: 100
"""

import asyncio
import tempfile

from dispatcher import AsyncNotificationService


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with AsyncNotificationService(directory, shards=1) as service:
            receipts = await asyncio.gather(
                *(service.notify(user_id="ada", title=f"Message {number}") for number in range(100))
            )
            print(len(receipts), "receipts")

            async for item in service.inapp("ada"):
                if item.cursor == 1:
                    print("the first to arrive:", item.title)
                if item.cursor == 100:
                    print("the last cursor:", item.cursor)
                    break


asyncio.run(main())
