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
const MIGRATIONS: &[(i64, &str, &str)] = &[(1, "first light", include_str!("../migrations/0001_first_light.sql"))];

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
    let migrations = MIGRATIONS.iter().map(|&(version, description, sql)| {
        Migration::new(version, Cow::Borrowed(description), MigrationType::Simple, sql.into_sql_str(), false)
    });
    match Migrator::with_migrations(migrations.collect()).run(pool).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(found)) => Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known: MIGRATIONS.last().map_or(0, |(version, ..)| *version),
        }),
        Err(source) => Err(OpenError::Database { path: path.to_owned(), source: source.into() }),
    }
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
