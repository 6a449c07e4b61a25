"""The table of Celery's settings, and the rule for each.

The names are those of Celery's settings reference, release 5.7.
docs/how-to/move-from-celery.md shows the table.
"""

from __future__ import annotations

from cloudq.contrib.celery import values
from cloudq.contrib.celery.rules import Table, carried, ignored, refused
from cloudq.contrib.celery.values import STORES

_AT_LEAST_ONCE = (
    "delivery is at least once on every cloud: a message is acknowledged after its task has ended "
    "and its result is kept"
)
_LATER = "beats keep their state in the result store; an entry has catch_up, the app beat_lease"
_URL = "the broker is given by broker_url alone"
_IN_URL = f"the result store is one of cloudq's, and what it needs is in its URL: {STORES}"
_DRIVER = "the cloud's own SDK keeps the connections, and tries again by itself"
_NO_EXCHANGE = "there are no exchanges: a call goes to a queue, see task_routes"
_NO_BROADCAST = "nothing is broadcast: workers are reached through the result store"
_OWN_CLASS = "parts of the worker cannot be exchanged: use signals or middleware"
_LOGGING = "a worker logs with --log-level and --log-format, and configures nothing else"

SETTINGS = Table(
    "setting",
    [
        # ---- the broker
        carried("broker_url", "broker", read=values.broker),
        *refused(
            _URL,
            "broker_read_url broker_write_url broker_transport",
            fine=(None,),
        ),
        *refused(
            _URL,
            "broker_host broker_port broker_user broker_password broker_vhost",
            fine=(None, ""),
        ),
        *refused(
            "a transport's options are the broker's own here: wait_time_seconds is "
            "worker_poll_wait, region and endpoint are in the URL, predefined_queues and "
            "queue_name_prefix are the queues' own names, priority_steps is priority_queues",
            "broker_transport_options",
            fine=(None, {}),
            # A lease is kept extended while a task runs, and the SDK keeps the connections.
            fine_keys="visibility_timeout polling_interval unacked_restore_limit confirm_publish "
            "fanout_prefix fanout_patterns health_check_interval retry_on_timeout socket_timeout "
            "socket_connect_timeout socket_keepalive socket_keepalive_options max_connections "
            "max_retries interval_start interval_step interval_max",
        ),
        *ignored(
            _DRIVER,
            "broker_connection_max_retries broker_connection_retry "
            "broker_connection_retry_on_startup broker_connection_timeout "
            "broker_channel_error_retry broker_heartbeat broker_heartbeat_checkrate "
            "broker_pool_acquire_timeout broker_pool_limit broker_failover_strategy "
            "broker_login_method",
        ),
        *ignored(
            "the clouds are spoken to by TLS alone",
            "broker_use_ssl",
            fine=(False, None),
        ),
        *ignored(
            "every delay is the broker's here",
            "broker_native_delayed_delivery_queue_type",
        ),
        # ---- results
        carried("result_backend", "backend", read=values.backend),
        carried("result_expires", read=values.expiry),
        carried("result_serializer", read=values.result_serializer, fine=("json",)),
        *ignored(
            "results are always stored as JSON",
            "result_accept_content result_compression",
        ),
        *ignored(
            "a record has the task's name, worker, queue and tries; events have its arguments, and "
            "result.args is None",
            "result_extended",
            fine=(False,),
        ),
        *ignored(
            "results lie in a store, which keeps them",
            "result_persistent result_cache_max",
        ),
        *ignored(
            "joins need no polling, and hold what they know as long as results",
            "result_chord_expires result_chord_join_timeout result_chord_retry_interval",
        ),
        *ignored(
            _DRIVER,
            "result_backend_always_retry result_backend_base_sleep_between_retries_ms "
            "result_backend_max_retries result_backend_max_sleep_between_retries_ms",
        ),
        *ignored(
            _NO_EXCHANGE,
            "result_exchange result_exchange_type",
        ),
        *refused(
            "failures are kept as long as results are",
            "result_failure_expires",
            fine=(None,),
        ),
        *refused(
            _IN_URL,
            "result_backend_transport_options",
            fine=(None, {}),
        ),
        *refused(
            _IN_URL,
            "database_engine_options database_short_lived_sessions database_table_names "
            "database_url "
            "arangodb_backend_settings azureblockblob_base_path "
            "azureblockblob_connection_timeout azureblockblob_container_name "
            "azureblockblob_read_timeout azureblockblob_retry_increment_base "
            "azureblockblob_retry_initial_backoff_sec azureblockblob_retry_max_attempts "
            "cache_backend cache_backend_options cassandra_auth_kwargs "
            "cassandra_auth_provider cassandra_bundle_path cassandra_entry_ttl "
            "cassandra_keyspace cassandra_options cassandra_port cassandra_read_consistency "
            "cassandra_servers cassandra_table cassandra_write_consistency "
            "cosmosdbsql_collection_name cosmosdbsql_consistency_level "
            "cosmosdbsql_database_name cosmosdbsql_max_retry_attempts "
            "cosmosdbsql_max_retry_wait_time couchbase_backend_settings "
            "database_create_tables_at_setup database_engine_callback database_table_schemas "
            "elasticsearch_max_retries elasticsearch_retry_on_timeout "
            "elasticsearch_save_meta_as_text elasticsearch_timeout gcs_base_path gcs_bucket "
            "gcs_project gcs_ttl mongodb_backend_settings redis_backend_use_ssl redis_db "
            "redis_host redis_max_connections redis_password redis_port "
            "redis_retry_on_timeout redis_socket_connect_timeout redis_socket_keepalive "
            "redis_socket_timeout redis_username s3_access_key_id s3_base_path s3_bucket "
            "s3_endpoint_url s3_region s3_secret_access_key",
            fine=(None,),
        ),
        # ---- tasks
        carried("include", read=values.modules),
        carried("imports", "include", read=values.modules),
        carried("task_always_eager"),
        carried("task_eager_propagates"),
        carried("task_ignore_result"),
        carried("task_track_started"),
        carried("task_time_limit", read=values.seconds),
        carried("task_soft_time_limit", read=values.seconds),
        carried("task_annotations"),
        carried("task_routes", read=values.routes),
        carried("task_default_queue"),
        carried("task_serializer", read=values.serializer, fine=("json",)),
        carried("task_compression", read=values.compression, fine=(None,)),
        carried("accept_content", read=values.serializers, fine=(["json"], ("json",), {"json"})),
        carried("task_publish_retry", "publish_retries", read=values.publish_retry),
        carried("task_publish_retry_policy", "publish_retries", read=values.publish_policy),
        carried("timezone", read=values.zone),
        *refused(
            "times are UTC on the wire; timezone is that of datetimes without a zone",
            "enable_utc",
            fine=(True,),
        ),
        *refused(
            f"{_AT_LEAST_ONCE}. A task that must not run twice says idempotent=True",
            "task_acks_late",
            fine=(True,),
        ),
        *refused(
            "a message whose worker died comes back, max_deliveries times at most: 1 is once",
            "task_reject_on_worker_lost task_retry_on_worker_lost",
            fine=(True, None),
        ),
        *refused(
            "a task that failed has ended; dead_letter=True on a task keeps its message",
            "task_acks_on_failure_or_timeout task_acks_on_failure task_acks_on_timeout",
            fine=(True, None),
        ),
        *refused(
            "the result of a failed task is kept as any other, or not with ignore_result",
            "task_store_errors_even_if_ignored",
            fine=(False,),
        ),
        *refused(
            "an eager result is its caller's alone",
            "task_store_eager_result",
            fine=(False,),
        ),
        *refused(
            "give tasks their rate_limit; task_annotations can, by name or as *",
            "task_default_rate_limit",
            fine=(None,),
        ),
        *refused(
            "queues with priorities are named in priority_queues, a call's is priority=",
            "task_queue_max_priority task_default_priority",
            fine=(None,),
        ),
        *refused(
            "a call has the priority that it is given",
            "task_inherit_parent_priority",
            fine=(False,),
        ),
        *refused(
            "an errback runs for the chord's body, as Celery does by default",
            "task_allow_error_cb_on_chord_header",
            fine=(False,),
        ),
        *refused(
            "queues are made with `cloudq queues create` and taken with `cloudq worker -Q`; "
            "the queue of a call is named in task_routes or by the task",
            "task_queues",
            fine=(None,),
        ),
        *ignored(
            "`cloudq queues create` makes a cloud's queues; embedded brokers make their own",
            "task_create_missing_queues",
        ),
        *refused(
            f"{_NO_EXCHANGE}; for every worker to run a task, send it to a queue of each",
            "task_default_exchange_type",
            fine=("direct", None),
        ),
        *ignored(
            _NO_EXCHANGE,
            "task_default_exchange task_default_routing_key "
            "task_create_missing_queue_exchange_type",
            fine=(None,),
        ),
        *ignored(
            "a cloud's queue is durable, and of one type",
            "task_default_delivery_mode task_default_queue_type task_create_missing_queue_type",
        ),
        *ignored(
            "cloudq has its own message; queue_accept and queue_produce name the queues that "
            "are shared with Celery",
            "task_protocol",
            fine=(2,),
        ),
        *ignored(
            "tracebacks always come as text",
            "task_remote_tracebacks",
        ),
        *ignored(
            "arguments are not logged",
            "task_repr_maxlevels",
        ),
        *ignored(
            "a task's events begin with its start: worker_send_task_events",
            "task_send_sent_event",
            fine=(False,),
        ),
        # ---- signing
        *refused(
            "messages are signed with signing_keys (HMAC-SHA256), without certificates",
            "security_cert_store security_certificate security_digest security_key "
            "security_key_password",
            fine=(None,),
        ),
        # ---- workers
        carried("worker_concurrency", "worker_processes"),
        carried("worker_max_tasks_per_child"),
        carried("worker_max_memory_per_child"),
        carried("worker_pool", read=values.pool),
        carried("worker_send_task_events", "task_events", read=values.events),
        *refused(
            "a worker takes what its free places can run, and of short tasks what it does in "
            "worker_prefetch_seconds",
            "worker_prefetch_multiplier",
            fine=(1,),
        ),
        *ignored(
            "a worker takes what its free places can run, and see worker_prefetch_seconds",
            "worker_disable_prefetch worker_enable_prefetch_count_reduction "
            "worker_eta_task_limit worker_pool_putlocks",
        ),
        *ignored(
            "a message that comes again once its task has ended is not run again",
            "worker_deduplicate_successful_tasks",
            fine=(True,),
        ),
        *refused(
            "rate limits are obeyed: take them off the tasks",
            "worker_disable_rate_limits",
            fine=(False,),
        ),
        *refused(
            "a worker without control has worker_heartbeat=0",
            "worker_enable_remote_control",
            fine=(True,),
        ),
        *refused(
            "name a queue for each worker with -Q",
            "worker_direct",
            fine=(False,),
        ),
        *refused(
            _OWN_CLASS,
            "worker_agent worker_autoscaler worker_consumer worker_timer",
            fine=(None,),
        ),
        *ignored(
            "on Linux the processes of a worker are forks of one that has only imported the app, "
            "elsewhere they are spawned; CLOUDQ_WORKER_FORK=false has them spawned everywhere",
            "worker_pool_start_method",
        ),
        *ignored(
            "processes are replaced one by one",
            "worker_pool_restarts worker_proc_alive_timeout worker_lost_wait",
        ),
        *ignored(
            "worker_grace is the time that running tasks have at a stop",
            "worker_soft_shutdown_timeout worker_enable_soft_shutdown_on_idle",
        ),
        *ignored(
            "revocations lie in the result store, and outlive workers",
            "worker_state_db",
        ),
        *ignored(
            "leases are kept, or lost with the connection: the message comes back then",
            "worker_cancel_long_running_tasks_on_connection_loss",
        ),
        *ignored(
            "there are no quorum queues",
            "worker_detect_quorum_queues",
        ),
        *ignored(
            "nothing is polled by a timer",
            "worker_timer_precision",
        ),
        *ignored(
            _LOGGING,
            "worker_hijack_root_logger worker_log_color worker_log_datefmt worker_log_format "
            "worker_task_log_datefmt worker_task_log_format worker_redirect_stdouts "
            "worker_redirect_stdouts_level",
        ),
        *ignored(
            _NO_BROADCAST,
            "control_exchange control_queue_durable control_queue_exclusive "
            "control_queue_expires control_queue_ttl event_exchange event_queue_durable "
            "event_queue_exclusive event_queue_expires event_queue_prefix event_queue_ttl "
            "event_serializer",
        ),
        # ---- periodic tasks; beat_schedule itself is kept, see cloudq.contrib.celery.app
        *ignored(
            _LATER,
            "beat_cron_starting_deadline beat_enable_remote_control beat_max_loop_interval "
            "beat_remote_control_max_tick_age beat_schedule_filename beat_scheduler "
            "beat_sync_every",
        ),
    ],
)

# Stored on the app as data: cloudq's settings have no field for them.
KEPT = frozenset({"beat_schedule"})

_RENAMED = {
    "celery_eager_propagates_exceptions": "task_eager_propagates",
    "celery_max_cached_results": "result_cache_max",
    "celery_message_compression": "task_compression",
    "celery_result_db_short_lived_sessions": "database_short_lived_sessions",
    "celery_result_db_tablenames": "database_table_names",
    "celery_result_dburi": "database_url",
    "celery_result_engine_options": "database_engine_options",
    "celery_send_events": "worker_send_task_events",
    "celery_send_task_sent_event": "task_send_sent_event",
    "celery_task_result_expires": "result_expires",
    "celeryd_task_soft_time_limit": "task_soft_time_limit",
    "celeryd_task_time_limit": "task_time_limit",
    "celeryd_worker_lost_wait": "worker_lost_wait",
}


def modern(name: str) -> str:
    """Return the lower-case name of a setting, also for its upper-case name in Celery 3."""
    plain = name.lower()
    if plain in _RENAMED:
        return _RENAMED[plain]
    for old, new in (("celeryd_", "worker_"), ("celerybeat_", "beat_")):
        if plain.startswith(old):
            return new + plain.removeprefix(old)
    if plain.startswith("celery_"):
        rest = plain.removeprefix("celery_")
        for prefix in ("", "task_", "worker_", "result_"):
            found = f"{prefix}{rest}"
            if found in KEPT or SETTINGS.find(found) is not None:
                return found
    return plain
