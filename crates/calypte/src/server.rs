//! A running server: worker, control, API and administration socket on one data folder.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, bail};
use calypte_control::Control;
use calypte_jail::Policy;
use calypte_store::Store;
use calypte_worker::code::CodeCache;
use calypte_worker::image::Images;
use calypte_worker::{CpuLimit, EgressConfig, Worker, WorkerConfig};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use crate::administration::listener::OwnerListener;
use crate::administration::service::{Administration, router};
use crate::data::{DataFolder, REGION_DEFAULT};
use crate::egress_options::EgressOptions;
use crate::output::note;
use crate::platform::{AccountLimit, PlatformOption, PtraceAccounts};
use crate::verb::zygote::UID_FIRST_DEFAULT;
use crate::verb::{jail_probe, zygote};

/// Options of the verbs that start a server.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Port of the API; 0 takes a free one
    #[arg(long, default_value_t = 7070)]
    port: u16,
    /// Address of the API. The API has no encryption: put a proxy with TLS before anything but this machine
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: IpAddr,
    /// Region in the names of functions
    #[arg(long, default_value = REGION_DEFAULT, env = "CALYPTE_REGION", value_parser = region)]
    region: String,
    /// `full`: do not start unless every layer of the jail around microVMs is possible here (docs/security.md)
    #[arg(long, value_name = "HOW", default_value_t = Policy::BestEffort, env = "CALYPTE_REQUIRE_JAIL")]
    require_jail: Policy,
    /// First of 65,537 user ids for microVMs and for egress, used when the server runs as root; nothing else may use them
    #[arg(long, value_name = "UID", default_value_t = UID_FIRST_DEFAULT)]
    jail_uids: u32,
    #[command(flatten)]
    platform: PlatformOption,
    /// Accounts when functions run under ptrace, where who breaks out of one can reach those of others
    #[arg(long, value_enum, default_value_t, value_name = "NUMBER")]
    ptrace_accounts: PtraceAccounts,
    /// `cap`: after its initialisation a function gets no more of the processors than its memory size says (one for each
    /// 1,769 MiB), even if they are idle; `weight`: only when they are short
    #[arg(long, value_name = "HOW", default_value_t = CpuLimit::Weight)]
    cpu_limit: CpuLimit,
    /// Part of each environment's /tmp that counts as its memory when the node's is handed out, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100))]
    tmp_reserve: u32,
    #[command(flatten)]
    egress: EgressOptions,
}

fn region(text: &str) -> Result<String, String> {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=32).contains(&text.len()) && text.bytes().all(is_allowed) {
        Ok(text.to_owned())
    } else {
        Err("a region has 1 to 32 lower-case letters, digits and '-', for example us-east-1".to_owned())
    }
}

/// Says once which layers of the jail this host does not allow, and refuses to go on without them if so told.
fn check_jail(policy: Policy) -> anyhow::Result<()> {
    let report = jail_probe::report().context("cannot find out how microVMs are jailed here")?;
    let missing: Vec<String> =
        report.missing().map(|step| format!("{} ({})", step.feature.name(), step.detail)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join("; ");
    match policy {
        Policy::Full => bail!(
            "a full jail is required, but this host does not allow: {missing}. `calypte doctor` says what to do; \
             --require-jail best-effort goes on without"
        ),
        Policy::BestEffort => tracing::warn!(missing, "microVMs are not fully jailed on this host"),
    }
    Ok(())
}

/// What a server needs before it listens. The data folder is this process's own from here on.
pub(crate) struct Prepared {
    folder: DataFolder,
    region: String,
    pub(crate) accounts: AccountLimit,
    listener: TcpListener,
    pub(crate) store: Store,
    pub(crate) images: Images,
    worker: WorkerConfig,
    stop: Stop,
}

/// A server that listens.
pub(crate) struct Running {
    folder: DataFolder,
    /// `http://HOST:PORT`.
    pub(crate) endpoint: String,
    pub(crate) region: String,
    store: Store,
    worker: Arc<Worker>,
    stop_api: tokio::sync::oneshot::Sender<()>,
    api: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
    stop: Stop,
}

/// The signals that end a server.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        let [interrupt, terminate, hang_up] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        Ok(Self { interrupt: interrupt?, terminate: terminate?, hang_up: hang_up? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            // The terminal was closed.
            _ = self.hang_up.recv() => {}
        }
    }
}

impl Prepared {
    /// Takes the data folder and the port.
    pub(crate) async fn new(options: &Options, folder: DataFolder) -> anyhow::Result<Self> {
        let platform = options.platform.choose()?;
        let accounts = AccountLimit::new(platform, options.ptrace_accounts);
        check_jail(options.require_jail)?;
        let stop = Stop::new().context("cannot handle signals")?;
        let address = SocketAddr::new(options.host, options.port);
        let store = Store::open(folder.path()).await?;
        accounts.check(&store).await?;
        // From now on, what is read here is this process's to write.
        folder.remove_endpoint();
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                bail!("{address} is in use by another program; choose another port with --port, or 0 for a free one")
            }
            Err(error) => return Err(error).with_context(|| format!("cannot listen on {address}")),
        };
        let images = Images::open(folder.runtimes())?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let egress = options.egress.command(options.require_jail, options.jail_uids)?;
        let worker = WorkerConfig {
            zygote_arguments: zygote::arguments(options.require_jail, options.jail_uids),
            platform,
            egress: egress.map(|(program, arguments)| EgressConfig { program, arguments }),
            cpu_limit: options.cpu_limit,
            tmp_percent: options.tmp_reserve,
            ..WorkerConfig::new(folder.path().to_owned(), program)
        };
        let region = options.region.clone();
        Ok(Self { folder, region, accounts, listener, store, images, worker, stop })
    }

    /// Returns when the server is told to end before it has started.
    pub(crate) async fn stopped(&mut self) {
        self.stop.wait().await;
    }

    /// The data folder.
    pub(crate) fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// Starts everything.
    pub(crate) async fn start(self) -> anyhow::Result<Running> {
        let Self { folder, region, accounts, listener, store, images, worker, stop } = self;
        let worker = Worker::start(worker).await?;
        let code = CodeCache::open(folder.code())?;
        let executor = Arc::clone(&worker) as Arc<dyn calypte_control::Executor>;
        let control = Arc::new(Control::new(store.clone(), executor, images, code, region.clone())?);
        let endpoint = format!("http://{}", listener.local_addr()?);
        let administration = OwnerListener::bind(folder.path()).context("cannot make the administration socket")?;
        let service = router(Administration {
            control: Arc::clone(&control),
            accounts,
            worker: Arc::clone(&worker),
            endpoint: endpoint.clone(),
        });
        let administration = tokio::spawn(async move {
            if let Err(error) = axum::serve(administration, service).await {
                tracing::error!(error = &error as &dyn std::error::Error, "the administration socket failed");
            }
        });
        let collector = tokio::spawn({
            let control = Arc::clone(&control);
            async move { control.keep_collecting_garbage().await }
        });
        let (stop_api, stopped) = tokio::sync::oneshot::channel();
        let api = tokio::spawn(calypte_api::serve(listener, control, async {
            // The sender's end means stop as well.
            let _ = stopped.await;
        }));
        folder.write_endpoint(&endpoint, &region)?;
        let background = vec![administration, collector];
        Ok(Running { folder, endpoint, region, store, worker, stop_api, api, background, stop })
    }
}

impl Running {
    /// Serves until Ctrl-C or SIGTERM, then ends everything that belongs to the server. A second signal ends it at
    /// once.
    pub(crate) async fn serve(self) -> anyhow::Result<()> {
        let Self { folder, store, worker, stop_api, api, background, mut stop, .. } = self;
        stop.wait().await;
        note("stopping …  (what runs may finish within 10 s; Ctrl-C again stops at once)");
        let end = async {
            folder.remove_endpoint();
            // Gone already, if the API has failed.
            let _ = stop_api.send(());
            let served = api.await;
            for task in background {
                task.abort();
                // Aborted, as it should be.
                let _ = task.await;
            }
            worker.shutdown().await;
            store.close().await;
            served.context("the API failed")
        };
        tokio::select! {
            result = end => result,
            () = stop.wait() => bail!("stopped at once; running invocations were cut off"),
        }
    }
}
