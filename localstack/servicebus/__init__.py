"""A stand-in for Azure Service Bus: queues over AMQP 1.0, for Microsoft's own SDK.

It is for tests and for a laptop: everything is in memory, and time is real. What it does and
what it does not do is in its README.

The AMQP engine is this package's own, in pure Python on asyncio. python-qpid-proton was tried: it
comes as source, so that every user needs a C compiler and waits for it (20 s here); it hides a
message's format, by which Service Bus tells a batch from a message; and the faults that tests ask
for (a connection cut between a message's effect and its answer) want the frames in hand.
"""
