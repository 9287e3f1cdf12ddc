"""From other layers to SyncBatchNorm and back: convert.py, by the rules in registry.py.

foreign.py has the rules for layers of other libraries, norm_act.py layers with an activation
module, which some of them have.
"""
