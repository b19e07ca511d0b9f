"""What is allowed: plain values. Only `load.py` and `templates.py` look at the disk.

`model.py` says what can be written down, `requests.py` what can be asked, `decide.py` answers. `validate.py`,
`merge.py` and `load.py` turn what the user wrote into a `Policy`; `remedy.py` says what to write instead.
"""
