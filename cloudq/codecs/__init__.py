"""Other forms of a task message: serializers, compression, signatures, and Celery's protocol."""

from cloudq.codecs.codec import Codec

__all__ = ["Codec"]
