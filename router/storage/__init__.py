"""Files on disk that brokers and lock stores share."""
