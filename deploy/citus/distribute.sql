-- SPDX-License-Identifier: Apache-2.0
--
-- Spreads a migrated, still empty ledger database over a Citus 13 cluster. Run once, on the
-- coordinator, as the owner of the tables, after `python -m services.ledger migrate`:
--
--     psql --set ON_ERROR_STOP=1 --file deploy/citus/distribute.sql "$LEDGER_DSN"
--
-- Tables that others refer to come first. Every table is distributed by `bucket` and lies beside `accounts`, so all rows of an account, and
-- of a unit of work, are on one shard. Serve with OWNKEY_LEDGER_BATCH_BUCKETS=one: a batch then
-- never leaves its shard.

-- The triggers that refuse changes look at nothing but the row in hand, so they are safe on shards.
SET citus.enable_unsafe_triggers TO on;

SELECT create_distributed_table('accounts', 'bucket', shard_count => 64);
SELECT create_distributed_table('grants', 'bucket', colocate_with => 'accounts');
SELECT create_distributed_table('requests', 'bucket', colocate_with => 'accounts');
SELECT create_distributed_table('authorizations', 'bucket', colocate_with => 'accounts');
SELECT create_distributed_table('settlements', 'bucket', colocate_with => 'accounts');
SELECT create_distributed_table('refusals', 'bucket', colocate_with => 'accounts');
SELECT create_distributed_table('entries', 'bucket', colocate_with => 'accounts');
SELECT create_distributed_table('entry_links', 'bucket', colocate_with => 'accounts');
SELECT create_distributed_table('operations', 'bucket', colocate_with => 'accounts');
SELECT create_distributed_table('mode_changes', 'bucket', colocate_with => 'accounts');
SELECT create_distributed_table('usage_days', 'bucket', colocate_with => 'accounts');
SELECT create_distributed_table('key_budgets', 'bucket', colocate_with => 'accounts');

-- Small, the same for every account, read at the start of a process.
SELECT create_reference_table('schema_version');
