"""`fence [flags] [--] command...`: the engine for any command.

=============  ======================================================================
module         what it holds
=============  ======================================================================
`start`        the console script
`main`         what happens from the command line to the exec
`options`      the flags: one row each, read by the parser, the help and the reference
`choose`       which policy holds
`execute`      which program is meant, and starting it
`surroundings` the environment that it gets
`report`       what the supervisor tells the user
`nested`       the same, for a command in a command
`describe`     what `-d` says before the command starts
`features`     `--features`
`ports`        `-p`
=============  ======================================================================
"""
