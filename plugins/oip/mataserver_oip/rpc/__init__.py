"""The Open Inference Protocol over gRPC: the extra ``grpc``, imported when it is turned on."""
