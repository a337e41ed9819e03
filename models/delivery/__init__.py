"""Delivery of an engine's items to the calling process. Knows nothing of Ray.

A message through a Serve handle costs about 75 us of CPU at each end. Here, everything that an
engine's streams produce in one turn of its event loop, which is one step, is one write and one
read. Calls, admission, cancellation and failures remain Ray's.
"""
