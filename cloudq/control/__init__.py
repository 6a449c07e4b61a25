"""Looking into live workers and telling them what to do, through their items in the store.

A worker's heartbeat writes its item (`roster`) and reads its commands back in the same request;
`panel` knows the commands and their arguments, `commands` carries them and their replies, and
`api` has Celery's names for it all.
"""

from cloudq.control.api import Control, Inspect
from cloudq.control.panel import Arg, CommandState, Panel, Spec
from cloudq.control.roster import Heart, Roster

__all__ = ["Arg", "CommandState", "Control", "Heart", "Inspect", "Panel", "Roster", "Spec"]
