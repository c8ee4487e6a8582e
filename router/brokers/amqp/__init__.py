"""RabbitMQ, through kombu and py-amqp: a layout of quorum queues, confirmed publishing, consuming that comes back.

For others: `AmqpBroker`, and for the command line what it plans, finds and prunes.
"""

from router.brokers.amqp.broker import AmqpBroker
from router.brokers.amqp.declare import Finding, Pruned
from router.brokers.amqp.topology import Binding, Declaration, Exchange, Queue, plan

__all__ = ["AmqpBroker", "Binding", "Declaration", "Exchange", "Finding", "Pruned", "Queue", "plan"]
