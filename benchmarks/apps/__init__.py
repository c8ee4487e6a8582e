"""The peers' applications, each as its own docs say it is fastest while confirmed, acked late, and on quorum queues."""
