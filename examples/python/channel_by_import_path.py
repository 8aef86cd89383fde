"""A channel that the shards load themselves, by its import path: the fastest kind, as nothing goes between processes.

The shards import this file to find the class. That is why what is to run only here stands below ``if __name__``.

Prints:

    logbook: delivered
    ada: Order 17 has shipped
"""

import tempfile
from pathlib import Path
from typing import Any

from dispatcher import Context, Delivery, NotificationService, Recipient


class Logbook:
    name = "logbook"

    def __init__(self, settings: dict[str, Any], context: Context) -> None:
        self._file = Path(settings["file"])

    def supports_recipient(self, recipient: Recipient) -> bool:
        return True

    def send(self, delivery: Delivery) -> None:
        with self._file.open("a") as file:
            file.write(f"{delivery.recipient.user_id}: {delivery.title}\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory, NotificationService(directory, shards=1) as service:
        file = Path(directory, "logbook.txt")
        service.register_channel("logbook", "channel_by_import_path:Logbook", file=str(file))
        receipt = service.notify(user_id="ada", title="Order 17 has shipped", channels=["logbook"])
        print("logbook:", service.wait(receipt.id, timeout=20).outcomes["logbook"])
        print(file.read_text(), end="")
