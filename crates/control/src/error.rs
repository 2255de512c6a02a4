//! What can go wrong with a request, in the system's own words. `calypte-api` maps each to a status and an AWS name.

use calypte_types::{AccountId, limits};
use calypte_worker::ThrottleReason;

/// Longest piece of a caller's text that is repeated in a message.
const QUOTED_CHARACTERS_MAX: usize = 200;

/// An error's cause, whatever layer it is from.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A parameter is not acceptable.
    #[error(transparent)]
    Invalid(#[from] InvalidParameter),
    /// No such function, version or alias.
    #[error("Function not found: {arn}")]
    NotFound {
        /// As the client named it.
        arn: String,
    },
    /// The name is an ARN of another region.
    #[error("Functions from '{region}' are not reachable in this region ('{here}')")]
    OtherRegion {
        /// In the ARN.
        region: String,
        /// Of this server.
        here: String,
    },
    /// The name is an ARN of another account.
    #[error(
        "User: arn:aws:iam::{caller}:root is not authorized to perform: {action} on resource: {function} because no \
         resource-based policy allows the {action} action"
    )]
    OtherAccount {
        /// Who asked.
        caller: AccountId,
        /// For what.
        action: &'static str,
        /// The function's ARN.
        function: String,
    },
    /// The name is taken.
    #[error("Function already exist: {name}")]
    AlreadyExists {
        /// The name.
        name: String,
    },
    /// The caller expects another revision.
    #[error(
        "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve \
         the latest Revision Id"
    )]
    RevisionMismatch,
    /// Somebody else changed the function at the same time.
    #[error("The operation cannot be performed at this time. An update is in progress for resource: {arn}")]
    UpdateInProgress {
        /// The function.
        arn: String,
    },
    /// The event, or what comes with it, cannot be read.
    #[error("{0}")]
    BadEvent(String),
    /// The event is too large.
    #[error("Request must be smaller than {maximum} bytes for the InvokeFunction operation", maximum = limits::PAYLOAD_BYTES_MAX)]
    EventTooLarge,
    /// The function's runtime is gone from this server.
    #[error(transparent)]
    RuntimeUnavailable(InvalidParameter),
    /// The function's package cannot be extracted any more.
    #[error(transparent)]
    PackageDamaged(InvalidParameter),
    /// No capacity; the invocation did not run.
    #[error("Rate Exceeded. ({0})")]
    Throttled(ThrottleReason),
    /// The invocation did not run because the server is ending.
    #[error("The server is shutting down; try again")]
    ShuttingDown,
    /// Our own failure.
    #[error("{doing} failed; the server's log has the details")]
    Internal {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Source,
    },
}

impl ControlError {
    /// Our own failure while `doing` something.
    pub(crate) fn internal(doing: &'static str) -> impl FnOnce(Source) -> Self {
        move |source| Self::Internal { doing, source }
    }
}

/// Why a parameter is not acceptable. Members are named as the service model names them, texts are Lambda's where
/// Lambda has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidParameter {
    /// A required member is missing.
    #[error(
        "1 validation error detected: Value null at '{member}' failed to satisfy constraint: Member must not be null"
    )]
    Missing {
        /// The member.
        member: &'static str,
    },
    /// A number is out of its range.
    #[error(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: Member must have value \
         between {minimum} and {maximum}"
    )]
    OutOfRange {
        /// The member.
        member: &'static str,
        /// Given.
        value: i64,
        /// Smallest allowed.
        minimum: u32,
        /// Largest allowed.
        maximum: u32,
    },
    /// A text is none of those that are defined.
    #[error(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: Member must satisfy enum \
         value set: [{}]",
        allowed.join(", ")
    )]
    NotOneOf {
        /// The member.
        member: &'static str,
        /// Given.
        value: String,
        /// What is defined.
        allowed: &'static [&'static str],
    },
    /// A text is longer than allowed.
    #[error(
        "1 validation error detected: Value at '{member}' failed to satisfy constraint: Member must have length less than \
         or equal to {maximum}"
    )]
    TooLong {
        /// The member.
        member: &'static str,
        /// Most characters.
        maximum: usize,
    },
    /// A text does not have the expected form.
    #[error(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: Member must be {expected}"
    )]
    Malformed {
        /// The member.
        member: &'static str,
        /// Given, shortened.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A member asks for something that this version does not do.
    #[error("{member} is not supported by this version of Calypte: leave it out")]
    Unsupported {
        /// The member, `Code.S3Bucket` for nested ones.
        member: String,
    },
    /// The request wants a published version.
    #[error("Publish=true is not supported by this version of Calypte: only $LATEST exists; leave it out")]
    Publish,
    /// Only zip packages are supported.
    #[error("PackageType {value} is not supported by this version of Calypte: use Zip")]
    PackageType {
        /// Given, shortened.
        value: String,
    },
    /// Only x86-64 is supported.
    #[error("Architectures {value:?} is not supported: this server runs x86_64 only")]
    Architecture {
        /// Given, shortened.
        value: String,
    },
    /// Zip packages need a runtime and a handler.
    #[error("Runtime and Handler are mandatory parameters for functions created with deployment packages.")]
    RuntimeAndHandler,
    /// There is no such runtime.
    #[error(
        "Value {value} at 'runtime' failed to satisfy constraint: it is no runtime of AWS Lambda and none of this server's \
         ({installed}); see `calypte runtime add --help`"
    )]
    UnknownRuntime {
        /// Given, shortened.
        value: String,
        /// Names of the installed runtimes.
        installed: String,
    },
    /// The runtime exists, but not here.
    #[error("Runtime {runtime} is not installed on this server ({installed}); add it with `calypte runtime add`")]
    RuntimeNotInstalled {
        /// Its name.
        runtime: String,
        /// Names of the installed runtimes.
        installed: String,
    },
    /// No code was given.
    #[error("Please provide a source for function code.")]
    NoCode,
    /// The zip file is larger than allowed.
    #[error("The zip file has {bytes} bytes; at most {maximum} are allowed", maximum = limits::ZIP_BYTES_MAX)]
    ZipTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The zip file is not acceptable; the text says why.
    #[error("Could not unzip uploaded file. Please check your file, then try to upload again. ({0})")]
    Zip(String),
    /// The zip file's members are larger than allowed.
    #[error("Unzipped size must be smaller than {maximum} bytes", maximum = limits::CODE_BYTES_MAX)]
    UnzippedTooLarge,
    /// Environment variables that only the system may set.
    #[error(
        "Lambda was unable to configure your environment variables because the environment variables you have provided \
         contains reserved keys that are currently not supported for modification. Reserved keys used in this request: {0}"
    )]
    ReservedVariables(String),
    /// Too much in the environment.
    #[error(
        "Lambda was unable to configure your environment variables because the environment variables you have provided \
         exceeded the 4KB limit. They have {bytes} bytes"
    )]
    EnvironmentTooLarge {
        /// Bytes of all names and values.
        bytes: usize,
    },
    /// Name and query string name different versions.
    #[error("The derived qualifier from the function name ({named}) does not match the specified qualifier ({given}).")]
    QualifiersDiffer {
        /// In the name.
        named: String,
        /// In the query string.
        given: String,
    },
    /// The action takes no qualifier.
    #[error("This operation does not take a qualifier ({qualifier}): use the function's name alone")]
    QualifierNotAllowed {
        /// Given.
        qualifier: String,
    },
    /// `$LATEST` cannot be deleted alone.
    #[error("$LATEST version cannot be deleted without deleting the function.")]
    DeleteLatest,
    /// Asynchronous invocations come later.
    #[error(
        "InvocationType=Event is not supported by this version of Calypte: use RequestResponse, or DryRun to check access"
    )]
    EventInvocation,
}

impl InvalidParameter {
    /// A value that does not have the `expected` form.
    pub fn malformed(member: &'static str, value: &str, expected: &'static str) -> Self {
        Self::Malformed { member, value: shortened(value), expected }
    }
}

/// A caller's text as a message may repeat it.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
