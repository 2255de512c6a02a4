-- Times are milliseconds since 1970-01-01T00:00:00Z. Names sort by their bytes (BINARY, the default collation).

CREATE TABLE accounts (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE access_keys (
    id         TEXT    NOT NULL PRIMARY KEY,
    account_id TEXT    NOT NULL REFERENCES accounts (id),
    secret     TEXT    NOT NULL,
    status     TEXT    NOT NULL CHECK (status IN ('Active', 'Inactive')),
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX access_keys_by_account ON access_keys (account_id, id);

-- `configuration` is a JSON document whose shape is given by `configuration_format`.
CREATE TABLE functions (
    account_id           TEXT    NOT NULL REFERENCES accounts (id),
    name                 TEXT    NOT NULL,
    configuration_format INTEGER NOT NULL,
    configuration        TEXT    NOT NULL,
    code_blob            TEXT    NOT NULL,
    code_size_bytes      INTEGER NOT NULL,
    state                TEXT    NOT NULL CHECK (state IN ('Pending', 'Active', 'Inactive', 'Failed')),
    state_reason         TEXT,
    revision_id          TEXT    NOT NULL,
    created_ms           INTEGER NOT NULL,
    modified_ms          INTEGER NOT NULL,
    PRIMARY KEY (account_id, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX functions_by_code_blob ON functions (code_blob);
