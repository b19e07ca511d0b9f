"""First policies, as `fence config init` writes them: one for each kind of file. `TEMPLATE` is filled in.

Not under the names that they get: nobody is to take them for the policy of this directory.
"""
