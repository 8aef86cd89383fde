"""A first notification: send it, see what became of it, read the inbox.

The service runs inside of this program, in a directory of its own, and ends with the block. No ``if __name__ ==
"__main__"`` is needed: it starts its processes by ``python -m dispatcher``, which does not import this file.

Prints:

    accepted, id ...
    the same key again: duplicate, the same id
    inapp: delivered
    Ada's inbox: Order 17 has shipped
    rejected: bad_value (priority): ...
    after shutdown: the service was shut down...
"""

import tempfile

from dispatcher import NotificationService, RejectedError, ShutdownError

with tempfile.TemporaryDirectory() as directory, NotificationService(directory, shards=1) as service:
    order = {"user_id": "ada", "title": "Order 17 has shipped", "idempotency_key": "order-17-shipped"}

    receipt = service.notify(order)  # returns when it is on disk
    print("accepted, id", receipt.id)

    again = service.notify(order)
    print("the same key again:", "duplicate," if again.duplicate else "sent twice,", end=" ")
    print("the same id" if again.id == receipt.id else "another id")

    status = service.wait(receipt.id, timeout=10)
    for channel, outcome in status.outcomes.items():
        print(f"{channel}: {outcome}")

    for item in service.inbox("ada"):
        print("Ada's inbox:", item.title)

    try:
        service.notify(user_id="ada", title="Hello", priority="urgent")
    except RejectedError as error:
        print("rejected:", error)

try:
    service.notify(order)
except ShutdownError as error:
    print("after shutdown:", error)
