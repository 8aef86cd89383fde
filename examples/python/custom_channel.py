"""A channel that is an object of this program: it takes its deliveries here. While it is detached they wait.

``send`` may be ``async def`` as well. Raise ``SendError`` for what was not taken: its class decides whether it is tried
again. The same can be done from any language, by the operation ``channel.attach``.

Prints:

    paging 4711: Disk full
    ada: {'pager': 'delivered'}
    bob: {'pager': 'suppressed'}
    detached: {'pager': 'pending'}
    paging 4711: Disk still full
    attached again: {'pager': 'delivered'}
"""

import tempfile

from dispatcher import Delivery, NotificationService, Recipient, Sent


class Pager:
    name = "pager"

    def supports_recipient(self, recipient: Recipient) -> bool:
        return "pager" in recipient.contacts.other

    async def send(self, delivery: Delivery) -> Sent:
        print(f"paging {delivery.recipient.contacts.other['pager']}: {delivery.title}")
        return Sent("what the service called it")


with tempfile.TemporaryDirectory() as directory, NotificationService(directory, shards=1) as service:
    registration = service.register_channel("pager", Pager())
    service.put_user("ada", {"contacts": {"other": {"pager": "4711"}}})
    service.put_user("bob", {"contacts": {"email": "bob@example.org"}})
    for user in ("ada", "bob"):
        receipt = service.notify(user_id=user, title="Disk full", channels=["pager"])
        print(f"{user}:", dict(service.wait(receipt.id, timeout=20).outcomes))

    registration.detach()
    receipt = service.notify(user_id="ada", title="Disk still full", channels=["pager"])
    print("detached:", dict(service.status(receipt.id).outcomes))

    service.register_channel("pager", Pager())
    print("attached again:", dict(service.wait(receipt.id, timeout=20).outcomes))
