"""A category that leaves the configuration: what was accepted in it is read and delivered all the same."""

from __future__ import annotations

from tests.support.service import RunningDispatcher, wait_until

CATEGORY = '[categories.bulletin]\nchannels = ["inapp", "email"]\npriority = "low"\n'
EMAIL = '[channels.email]\nprovider = "simulated"\n'
HANGING = 'latency = "1h"\n'


def test_a_category_that_is_gone_leaves_its_notifications() -> None:
    service = RunningDispatcher(CATEGORY + EMAIL + HANGING, shards=1)
    with service:
        id = service.client.submit({"user_id": "ada", "category": "bulletin", "title": "t"})["ids"][0]
        item = wait_until(lambda: service.request("inbox.list", user_id="ada")["items"])[0]
        assert (item["category"], item["priority"]) == ("bulletin", "low")
        service.kill()
        text = service.config_file.read_text()
        service.config_file.write_text(text.replace(CATEGORY, "").replace(HANGING, ""))
        service.start()
        assert service.request("inbox.list", user_id="ada")["items"] == [item]
        assert service.client.submit({"user_id": "ada", "category": "bulletin", "title": "t"})["rejected"]
        wait_until(lambda: not service.request("stats")["pending"], what="its email is delivered")
        outcomes = {one["channel"]: one["outcome"] for one in service.request("status", id=id)["deliveries"]}
        assert outcomes == {"inapp": "delivered", "email": "delivered"}
