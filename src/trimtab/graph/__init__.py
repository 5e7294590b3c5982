"""Capture, axes, channel groups, surgery and its proof."""

from trimtab.graph.capture.export import capture as capture
from trimtab.graph.dead import dead as dead
from trimtab.graph.dead import shrink as shrink
from trimtab.graph.depth.branches import Branch as Branch
from trimtab.graph.depth.removal import remove as remove
from trimtab.graph.depth.removal import without as without
from trimtab.graph.groups import ChannelGroup as ChannelGroup
from trimtab.graph.groups import Frozen as Frozen
from trimtab.graph.groups import ParamDim as ParamDim
from trimtab.graph.layers import Layer as Layer
from trimtab.graph.network import Network as Network
from trimtab.graph.storage.save import load as load
from trimtab.graph.storage.save import save as save
from trimtab.graph.surgery import cut as cut
from trimtab.graph.surgery import sliced as sliced
from trimtab.graph.transplant import transplant as transplant
from trimtab.graph.verify import Verification as Verification
from trimtab.graph.verify import verify as verify
