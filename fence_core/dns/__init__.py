"""Answers to the DNS queries of fenced programs: messages in, messages out, no sockets.

`responder.py` answers, `search.py` finds out which name a program meant, `addresses.py` hands out the synthetic
addresses, `resolv_conf.py` reads what resolvers read, `tcp.py` cuts a stream into messages. dnspython is imported when
the first query is answered.
"""
