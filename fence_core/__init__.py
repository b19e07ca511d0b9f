"""The engine of the fence: decides, enforces and records what a program may touch. Knows nothing of pytest.

=============  ==============================================================
package        what it holds
=============  ==============================================================
``policy``     what is allowed: plain values, and how a request is judged
``events``     what was tried that is not allowed
``kernel``     one module per kernel interface, without opinions
``link``       what two processes say to one another: both import it
``broker``     the supervisor's side: every trapped call is answered here
``dns``        answers look-ups of names; sends nothing on
``proxy``      the filter: a process that relays to allowed names
``launcher``   builds one fence, and joins one that stands
``report``     violations as text
``command``    `fence`: all of this for any command
``errors``     every exception, grouped by whose fault it is
=============  ==============================================================

Importing this package imports none of them: a run without a fence must not pay for one.

To pytest: PYTEST_DONT_REWRITE. It is imported past the rewriting of assertions (`pytest_fence.imports`), of which
every later session in the same process would warn.
"""
