"""Items of an engine on their way to the process that asked. Knows nothing of Ray.

A call through a Serve handle costs about 75 us of CPU a message at each end. Here everything that
the streams of one engine produce in one turn of its event loop, which is one step, is one write
and one read. Calls, admission, cancellation and death stay Ray's.
"""
