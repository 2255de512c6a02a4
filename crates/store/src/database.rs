//! The SQLite database: how it is opened, and its migrations.

use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use time::OffsetDateTime;

use crate::OpenError;
use crate::folder::FILE_MODE;

/// Every change of the schema, oldest first. A released one is never edited; a new one is a file and a line.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "first light", include_str!("../migrations/0001_first_light.sql")),
    (2, "template choice", include_str!("../migrations/0002_template_choice.sql")),
];

/// Readers run beside the one writer that SQLite allows.
const CONNECTIONS_MAX: u32 = 4;
/// How long a statement waits for the writer before it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens the database, creating it and bringing its schema up to date as needed.
pub(crate) async fn open(path: &Path) -> Result<SqlitePool, OpenError> {
    // Created before SQLite sees it, which then gives its write-ahead log the same mode.
    File::options().create(true).append(true).mode(FILE_MODE).open(path).map_err(|source| OpenError::Io {
        action: "create",
        path: path.to_owned(),
        source,
    })?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT);
    let pool = SqlitePoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .connect_with(options)
        .await
        .map_err(|source| OpenError::Database { path: path.to_owned(), source: source.into() })?;
    migrate(&pool, path).await?;
    Ok(pool)
}

async fn migrate(pool: &SqlitePool, path: &Path) -> Result<(), OpenError> {
    match migrator(MIGRATIONS).run(pool).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(found)) => Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known: MIGRATIONS.last().map_or(0, |(version, ..)| *version),
        }),
        Err(source) => Err(OpenError::Database { path: path.to_owned(), source: source.into() }),
    }
}

fn migrator(migrations: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migrations = migrations.iter().map(|&(version, description, sql)| {
        Migration::new(version, Cow::Borrowed(description), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// The stored form of a time: milliseconds since 1970.
pub(crate) fn to_ms(time: OffsetDateTime) -> i64 {
    time.unix_timestamp() * 1000 + i64::from(time.millisecond())
}

/// The time of a stored form.
pub(crate) fn from_ms(ms: i64) -> Result<OffsetDateTime, String> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).map_err(|error| error.to_string())
}

/// The present, to the precision that is stored, so that what is returned now equals what is read back later.
pub(crate) fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(u32::from(now.millisecond()) * 1_000_000).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use sqlx::Row;

    use super::*;

    #[tokio::test]
    async fn a_function_of_the_first_release_is_read_by_this_one() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("calypte.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
        migrator(&MIGRATIONS[..1]).run(&pool).await.unwrap();
        let old = r#"INSERT INTO accounts VALUES ('000000000001', 'dev', 0);
            INSERT INTO functions VALUES ('000000000001', 'f', 1, '{"runtime":"python3.11","handler":"a.b","role":"",
            "description":"","memory_mib":128,"tmp_mib":512,"timeout_s":3,"environment":{"A":"ä"},"tags":{}}',
            'blob', 10, 'Active', NULL, 'revision', 0, 0);"#;
        sqlx::raw_sql(old).execute(&pool).await.unwrap();
        pool.close().await;

        let pool = open(&path).await.unwrap();
        let row = sqlx::query(crate::statement::FUNCTION_BY_NAME).bind("000000000001").bind("f");
        let row = row.fetch_one(&pool).await.unwrap();
        assert_eq!(row.get::<i64, _>("configuration_format"), 2);
        let configuration: crate::FunctionConfiguration = serde_json::from_str(row.get("configuration")).unwrap();
        assert_eq!(configuration.template, crate::TemplateChoice::Default);
        assert_eq!((configuration.handler.as_str(), configuration.environment["A"].as_str()), ("a.b", "ä"));
    }
}
