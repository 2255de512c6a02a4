//! Every SQL statement of Calypte. They are checked by a test that prepares each against a migrated database, instead
//! of by macros that need a database while compiling.

macro_rules! statements {
    ($($(#[doc = $doc:literal])* $name:ident = $sql:literal;)*) => {
        $($(#[doc = $doc])* pub(crate) const $name: &str = $sql;)*

        /// All of them, by name.
        #[cfg(test)]
        const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

statements! {
    ACCOUNT_INSERT = "INSERT INTO accounts (id, name, created_ms) VALUES (?1, ?2, ?3)";
    ACCOUNT_BY_ID = "SELECT id, name, created_ms FROM accounts WHERE id = ?1";
    ACCOUNT_BY_NAME = "SELECT id, name, created_ms FROM accounts WHERE name = ?1";
    ACCOUNTS_ALL = "SELECT id, name, created_ms FROM accounts ORDER BY name";

    /// Inserts only while the account has fewer than `?6` keys.
    ACCESS_KEY_INSERT =
        "INSERT INTO access_keys (id, account_id, secret, status, created_ms)
         SELECT ?1, ?2, ?3, ?4, ?5 WHERE (SELECT count(*) FROM access_keys WHERE account_id = ?2) < ?6";
    ACCESS_KEY_BY_ID = "SELECT id, account_id, secret, status, created_ms FROM access_keys WHERE id = ?1";
    ACCESS_KEYS_OF_ACCOUNT =
        "SELECT id, account_id, secret, status, created_ms FROM access_keys WHERE account_id = ?1 ORDER BY created_ms, id";
    ACCESS_KEY_SET_STATUS = "UPDATE access_keys SET status = ?2 WHERE id = ?1";
    ACCESS_KEY_DELETE = "DELETE FROM access_keys WHERE id = ?1";

    FUNCTION_INSERT =
        "INSERT INTO functions (account_id, name, configuration_format, configuration, code_blob, code_size_bytes,
                                state, state_reason, revision_id, created_ms, modified_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    /// Writes only over the revision `?12`.
    FUNCTION_UPDATE =
        "UPDATE functions SET configuration_format = ?3, configuration = ?4, code_blob = ?5, code_size_bytes = ?6,
                              state = ?7, state_reason = ?8, revision_id = ?9, created_ms = ?10, modified_ms = ?11
         WHERE account_id = ?1 AND name = ?2 AND revision_id = ?12";
    FUNCTION_BY_NAME =
        "SELECT account_id, name, configuration_format, configuration, code_blob, code_size_bytes,
                state, state_reason, revision_id, created_ms, modified_ms
         FROM functions WHERE account_id = ?1 AND name = ?2";
    /// One page; `?2` is the last name of the page before, or empty.
    FUNCTIONS_OF_ACCOUNT =
        "SELECT account_id, name, configuration_format, configuration, code_blob, code_size_bytes,
                state, state_reason, revision_id, created_ms, modified_ms
         FROM functions WHERE account_id = ?1 AND name > ?2 ORDER BY name LIMIT ?3";
    FUNCTION_DELETE = "DELETE FROM functions WHERE account_id = ?1 AND name = ?2";
    BLOB_IS_REFERENCED = "SELECT EXISTS (SELECT 1 FROM functions WHERE code_blob = ?1)";
}

#[cfg(test)]
mod tests {
    use sqlx::{Executor, SqlSafeStr};

    use super::*;

    #[tokio::test]
    async fn every_statement_fits_the_schema() {
        let root = tempfile::tempdir().unwrap();
        let pool = crate::database::open(&root.path().join("calypte.db")).await.unwrap();
        for (name, sql) in ALL {
            if let Err(error) = pool.prepare(sql.into_sql_str()).await {
                panic!("{name}: {error}\n{sql}");
            }
        }
        assert!(pool.prepare("SELECT nothing FROM functions".into_sql_str()).await.is_err(), "the check checks");
    }
}
