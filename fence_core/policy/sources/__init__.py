"""From files, presets, flags and markers to a policy, by the rows of `fence_core/policy/keys.py`."""
