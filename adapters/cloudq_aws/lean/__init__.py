"""Makes the calls that run all day, where they go well, in a fraction of boto3's steps.

A call is first made by boto3, and seen there: what it sent is the pattern of the next ones, which
go over the connections that it keeps. Whatever is not a plain good answer is handed back to boto3
and its connection with it, as if boto3 had sent the request itself; so it judges, waits and tries
again by its own rules. Where boto3 would do something that is not known here, it does all.
"""
