"""A parcel is made ready for its channel, whatever is in it."""

from __future__ import annotations

from shards import logs
from shards.channels.base import Delivery, SendError
from shards.parcel import Parcel, Renderer, Variables, nothing, unpack

log = logs.logger()


def made_ready(parcel: Parcel, channel: str, render: Renderer, more: Variables = nothing) -> Delivery | SendError:
    """What the channel sends; what goes wrong is the end of the attempt, and of nothing else."""
    try:
        return unpack(parcel, channel, render, more)
    except SendError as error:  # of the template
        return error
    except Exception as error:
        log.exception("a delivery cannot be made ready", channel=channel, id=parcel.notification_id)
        return SendError("transient", f"{type(error).__name__}: {error}")
