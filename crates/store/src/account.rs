//! Accounts and their access keys.

use calypte_types::{ACCESS_KEY_ID_ENTROPY_BYTES, AccessKeyId, AccountId, SECRET_ENTROPY_BYTES, SecretAccessKey};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use crate::database::{from_ms, now, to_ms};
use crate::{Store, StoreError, statement};

/// An owner of functions and keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id, part of every ARN.
    pub id: AccountId,
    /// Its name, unique on this system.
    pub name: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// A key with which requests of an account are signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// The public half.
    pub id: AccessKeyId,
    /// Whose it is.
    pub account: AccountId,
    /// The secret half.
    pub secret: SecretAccessKey,
    /// Whether it may be used.
    pub status: KeyStatus,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// Whether a key may be used; words as in AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStatus {
    /// It may.
    Active,
    /// It may not, until made active again.
    Inactive,
}

impl KeyStatus {
    /// The word that is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Inactive => "Inactive",
        }
    }
}

/// Longest account name.
const ACCOUNT_NAME_BYTES_MAX: usize = 64;
/// Most keys of one account (ours; AWS allows two for a user).
const ACCESS_KEYS_MAX: usize = 100;

impl Store {
    /// Makes an account with a random id.
    ///
    /// # Errors
    /// [`StoreError::AccountExists`], [`StoreError::AccountName`].
    pub async fn create_account(&self, name: &str) -> Result<Account, StoreError> {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if !(1..=ACCOUNT_NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(is_allowed) {
            return Err(StoreError::AccountName(name.to_owned()));
        }
        let account = Account { id: random_account_id()?, name: name.to_owned(), created_at: now() };
        let insert = sqlx::query(statement::ACCOUNT_INSERT)
            .bind(account.id.as_str())
            .bind(&account.name)
            .bind(to_ms(account.created_at));
        insert.execute(&self.inner.pool).await.map_err(|error| match &error {
            sqlx::Error::Database(cause) if cause.is_unique_violation() => StoreError::AccountExists(name.to_owned()),
            _ => StoreError::Database { action: "add an account", source: error },
        })?;
        Ok(account)
    }

    /// The account with this id.
    pub async fn account(&self, id: &AccountId) -> Result<Option<Account>, StoreError> {
        let query = sqlx::query(statement::ACCOUNT_BY_ID).bind(id.as_str());
        let row = query.fetch_optional(&self.inner.pool).await.map_err(StoreError::database("read an account"))?;
        row.as_ref().map(account_from).transpose()
    }

    /// The account with this name.
    pub async fn account_named(&self, name: &str) -> Result<Option<Account>, StoreError> {
        let query = sqlx::query(statement::ACCOUNT_BY_NAME).bind(name);
        let row = query.fetch_optional(&self.inner.pool).await.map_err(StoreError::database("read an account"))?;
        row.as_ref().map(account_from).transpose()
    }

    /// All accounts, by name.
    pub async fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        let query = sqlx::query(statement::ACCOUNTS_ALL);
        let rows = query.fetch_all(&self.inner.pool).await.map_err(StoreError::database("list accounts"))?;
        rows.iter().map(account_from).collect()
    }

    /// Makes an access key for an account, active at once.
    ///
    /// # Errors
    /// [`StoreError::AccountNotFound`], [`StoreError::TooManyAccessKeys`].
    pub async fn create_access_key(&self, account: &AccountId) -> Result<AccessKey, StoreError> {
        let key = AccessKey {
            id: AccessKeyId::from_entropy(entropy::<ACCESS_KEY_ID_ENTROPY_BYTES>()?),
            account: account.clone(),
            secret: random_secret()?,
            status: KeyStatus::Active,
            created_at: now(),
        };
        let insert = sqlx::query(statement::ACCESS_KEY_INSERT)
            .bind(key.id.as_str())
            .bind(account.as_str())
            .bind(key.secret.expose())
            .bind(key.status.as_str())
            .bind(to_ms(key.created_at))
            .bind(ACCESS_KEYS_MAX as i64);
        let done = insert.execute(&self.inner.pool).await.map_err(|error| match &error {
            sqlx::Error::Database(cause) if cause.is_foreign_key_violation() => {
                StoreError::AccountNotFound(account.clone())
            }
            _ => StoreError::Database { action: "add an access key", source: error },
        })?;
        match done.rows_affected() {
            0 => Err(StoreError::TooManyAccessKeys { account: account.clone(), max: ACCESS_KEYS_MAX }),
            _ => Ok(key),
        }
    }

    /// The key with this id, whether it is active or not.
    pub async fn access_key(&self, id: &AccessKeyId) -> Result<Option<AccessKey>, StoreError> {
        let query = sqlx::query(statement::ACCESS_KEY_BY_ID).bind(id.as_str());
        let row = query.fetch_optional(&self.inner.pool).await.map_err(StoreError::database("read an access key"))?;
        row.as_ref().map(access_key_from).transpose()
    }

    /// The keys of an account, oldest first.
    pub async fn access_keys(&self, account: &AccountId) -> Result<Vec<AccessKey>, StoreError> {
        let query = sqlx::query(statement::ACCESS_KEYS_OF_ACCOUNT).bind(account.as_str());
        let rows = query.fetch_all(&self.inner.pool).await.map_err(StoreError::database("list access keys"))?;
        rows.iter().map(access_key_from).collect()
    }

    /// Allows or forbids the use of a key.
    ///
    /// # Errors
    /// [`StoreError::AccessKeyNotFound`].
    pub async fn set_access_key_status(&self, id: &AccessKeyId, status: KeyStatus) -> Result<(), StoreError> {
        let update = sqlx::query(statement::ACCESS_KEY_SET_STATUS).bind(id.as_str()).bind(status.as_str());
        let done = update.execute(&self.inner.pool).await.map_err(StoreError::database("change an access key"))?;
        if done.rows_affected() == 0 { Err(StoreError::AccessKeyNotFound(id.clone())) } else { Ok(()) }
    }

    /// Removes a key for good.
    ///
    /// # Errors
    /// [`StoreError::AccessKeyNotFound`].
    pub async fn delete_access_key(&self, id: &AccessKeyId) -> Result<(), StoreError> {
        let delete = sqlx::query(statement::ACCESS_KEY_DELETE).bind(id.as_str());
        let done = delete.execute(&self.inner.pool).await.map_err(StoreError::database("delete an access key"))?;
        if done.rows_affected() == 0 { Err(StoreError::AccessKeyNotFound(id.clone())) } else { Ok(()) }
    }
}

fn entropy<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(StoreError::Entropy)?;
    Ok(bytes)
}

/// Twelve digits, the first not zero, so that no tool that takes them for a number loses one.
fn random_account_id() -> Result<AccountId, StoreError> {
    const SMALLEST: u64 = 100_000_000_000;
    let id = SMALLEST + u64::from_le_bytes(entropy()?) % (9 * SMALLEST);
    id.to_string().parse().map_err(|error| StoreError::damaged("an account", error))
}

fn random_secret() -> Result<SecretAccessKey, StoreError> {
    use base64::Engine;
    let secret = base64::engine::general_purpose::STANDARD.encode(entropy::<SECRET_ENTROPY_BYTES>()?);
    Ok(SecretAccessKey::new(secret))
}

fn account_from(row: &SqliteRow) -> Result<Account, StoreError> {
    let read = |error| StoreError::Database { action: "read an account", source: error };
    let id: String = row.try_get("id").map_err(read)?;
    let damaged = |reason: String| StoreError::damaged(format!("account {id}"), reason);
    Ok(Account {
        id: id.parse().map_err(|error: calypte_types::IdError| damaged(error.to_string()))?,
        name: row.try_get("name").map_err(read)?,
        created_at: from_ms(row.try_get("created_ms").map_err(read)?).map_err(damaged)?,
    })
}

fn access_key_from(row: &SqliteRow) -> Result<AccessKey, StoreError> {
    let read = |error| StoreError::Database { action: "read an access key", source: error };
    let id: String = row.try_get("id").map_err(read)?;
    let damaged = |reason: String| StoreError::damaged(format!("access key {id}"), reason);
    let status: String = row.try_get("status").map_err(read)?;
    let account: String = row.try_get("account_id").map_err(read)?;
    Ok(AccessKey {
        id: id.parse().map_err(|error: calypte_types::IdError| damaged(error.to_string()))?,
        account: account.parse().map_err(|error: calypte_types::IdError| damaged(error.to_string()))?,
        secret: SecretAccessKey::new(row.try_get::<String, _>("secret").map_err(read)?),
        status: match status.as_str() {
            "Active" => KeyStatus::Active,
            "Inactive" => KeyStatus::Inactive,
            other => return Err(damaged(format!("status {other:?}"))),
        },
        created_at: from_ms(row.try_get("created_ms").map_err(read)?).map_err(damaged)?,
    })
}
