"""A function that is called for each in-app notification of a user, in order and without gaps; how it goes on later.

Prints:

    called with: You have a new follower
    called with: Bob likes your photo
    stopped at cursor 2
    called with: Eve likes your photo
    unread: 2
"""

import queue
import tempfile

from dispatcher import InboxItem, NotificationService

items: queue.Queue[InboxItem] = queue.Queue()

with tempfile.TemporaryDirectory() as directory, NotificationService(directory, shards=1) as service:
    service.notify(user_id="ada", title="You have a new follower")  # before anybody listens

    with service.on_inapp(items.put, "ada") as subscription:
        print("called with:", items.get(timeout=20).title)
        service.notify(user_id="ada", title="Bob likes your photo")
        print("called with:", items.get(timeout=20).title)
    print("stopped at cursor", subscription.cursor)

    service.notify(user_id="ada", title="Eve likes your photo")  # while nobody listens
    with service.on_inapp(items.put, "ada", after=subscription.cursor):
        item = items.get(timeout=20)
        print("called with:", item.title)

    service.mark("ada", [item.id], "read")
    print("unread:", sum(item.state != "read" for item in service.inbox("ada")))
