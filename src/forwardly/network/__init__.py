"""How a network is seen: as stages, each one synapse and what follows it. In a chain:

    a_{l-1} → synapse → z_l → elementwise modules → h_l → reshaping modules → a_l

    a_{l-1}  presynaptic activity, what enters the synapse
    z_l      pre-activation, W_l a_{l-1} + b_l
    h_l      activity: z_l after the elementwise modules that follow it directly
    a_l      h_l after all that remains up to the next synapse

What stands before the first synapse prepares the input. Any other model is traced and becomes
stages in the order of its pass, and a graph of operations that passes run through; ``graph`` has
the letters' meaning there. Rules see stages in order, and the activities that a pass records; only
``reader`` knows whether a model is an ``nn.Sequential``.

May import ``noise``, ``checks`` and the types of arrays in ``_typing``.
"""

from __future__ import annotations

from forwardly.network.reader import Network
from forwardly.network.stage import Activity, Part, Stage
from forwardly.network.step import Kept, Step

__all__ = ["Activity", "Kept", "Network", "Part", "Stage", "Step"]
