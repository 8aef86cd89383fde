"""One notification to many: to a list of people, to a topic, and to everybody.

Prints:

    to a list: 3 ids
    to the topic: done, 10 planned
    to everybody: done, 30 planned
    user-0 has: Lunch is served, Version 2 is out, Maintenance
    user-1 has: Lunch is served, Maintenance
    user-29 has: Maintenance
"""

import tempfile

from dispatcher import NotificationService

with tempfile.TemporaryDirectory() as directory, NotificationService(directory, shards=2) as service:
    for number in range(30):
        topics = ["releases"] if number % 3 == 0 else []
        service.put_user(f"user-{number}", {"preferences": {"topics": topics}})

    listed = service.notify_all(title="Lunch is served", recipients=["user-0", "user-1", "user-2"])
    print("to a list:", len(listed.ids), "ids")

    for told, topic, title in (
        ("the topic", "releases", "Version 2 is out"),
        ("everybody", "*", "Maintenance"),
    ):
        receipt = service.notify_all(topic=topic, title=title)
        broadcast = service.wait(receipt.id, timeout=20).broadcast
        assert broadcast is not None
        print(f"to {told}: {broadcast['state']}, {broadcast['planned']} planned")

    for user in ("user-0", "user-1", "user-29"):
        print(f"{user} has:", ", ".join(str(item.title) for item in service.inbox(user)))
