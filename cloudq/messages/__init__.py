"""The task message and its bytes: values, serializers, compression, signatures."""
