"""One notification to many: to a list of people, to a topic, and to everybody.

Prints:

    to a list: 3 ids
    to the topic: done, 10 planned
    to everybody: done, 30 planned
    user-0 has: Lunch is served, Version 2 is out, Maintenance tonight
    user-1 has: Lunch is served, Maintenance tonight
    user-29 has: Maintenance tonight
"""

import tempfile

from dispatcher import NotificationService

with tempfile.TemporaryDirectory() as directory, NotificationService(directory, shards=2) as service:
    for number in range(30):
        topics = ["releases"] if number % 3 == 0 else []
        service.put_user(f"user-{number}", {"preferences": {"topics": topics}})

    listed = service.notify_all(title="Lunch is served", recipients=["user-0", "user-1", "user-2"])
    print("to a list:", len(listed.ids), "ids")

    topic = service.notify_all(title="Version 2 is out", topic="releases")
    broadcast = service.wait(topic.id, timeout=20).broadcast
    print(f"to the topic: {broadcast['state']}, {broadcast['planned']} planned")

    everybody = service.notify_all(title="Maintenance tonight")  # the topic "*"
    broadcast = service.wait(everybody.id, timeout=20).broadcast
    print(f"to everybody: {broadcast['state']}, {broadcast['planned']} planned")

    for user in ("user-0", "user-1", "user-29"):
        print(f"{user} has:", ", ".join(item.title for item in service.inbox(user)))
