"""A worker of Celery on a queue over a topic: `add` writes down what it was given and what came of it."""

import os

from celery import Celery
from kombu import Queue

topic = os.environ["TOPIC"]
app = Celery("worker", broker=f"amqp://guest:guest@{os.environ['AMQP']}//")
app.conf.update(
    task_queues=[Queue(f"{topic}-tasks", queue_arguments={"x-kafka-topic": topic, "x-queue-type": os.environ["KIND"]})],
    task_default_queue=f"{topic}-tasks",
    task_acks_late=True,
    worker_prefetch_multiplier=4,
    worker_enable_remote_control=False,
    worker_detect_quorum_queues=True,
    broker_connection_retry_on_startup=False,
)


@app.task(name="add", bind=True)
def add(self, a, b):
    with open(os.environ["DONE"], "a", encoding="utf-8") as done:
        done.write(f"{self.request.id} {a + b}\n")
