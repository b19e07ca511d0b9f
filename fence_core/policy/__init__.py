"""What is allowed: plain values. Only `sources` and `compiler.py` look at the disk.

`model.py` says what can be written down, `requests.py` what can be asked, `decide.py` answers. `sources`
turns what the user wrote into a `Policy`; `remedy.py` says what to write instead.
"""
