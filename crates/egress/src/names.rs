//! Questions about names, answered with the resolver configuration of the host: name servers of `/etc/resolv.conf`, and
//! `/etc/hosts`. Answers are kept for as long as they say.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};

/// Answers that are kept.
const CACHE_ANSWERS: u64 = 4096;
/// An answer is not kept for longer, whatever it says.
const TTL_MAX: Duration = Duration::from_secs(3600);
/// How long a name server may take.
const SERVER_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024 - 1;
/// What we take by datagram, as recommended (DNS flag day 2020).
const DATAGRAM_BYTES_MAX: u16 = 1232;

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
#[error("the host's resolver configuration cannot be used")]
pub struct NamesError(#[source] NetError);

/// The resolver.
#[derive(Clone)]
pub struct Names {
    resolver: TokioResolver,
}

impl Names {
    /// A resolver that asks these name servers; those of the host if there are none.
    pub fn new(name_servers: &[SocketAddr]) -> Result<Self, NamesError> {
        let mut builder = if name_servers.is_empty() {
            TokioResolver::builder_tokio().map_err(NamesError)?
        } else {
            let servers = name_servers.iter().map(|address| {
                let mut server = NameServerConfig::udp_and_tcp(address.ip());
                server.connections.iter_mut().for_each(|connection| connection.port = address.port());
                server
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.cache_size = CACHE_ANSWERS;
        options.timeout = SERVER_TIMEOUT;
        options.edns0 = true;
        options.preserve_intermediates = true;
        (options.positive_max_ttl, options.negative_max_ttl) = (Some(TTL_MAX), Some(TTL_MAX));
        Ok(Self { resolver: builder.build().map_err(NamesError)? })
    }

    /// The answer to a DNS message; `None` if that is none, or no question.
    pub async fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).ok()?;
        if query.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.metadata = Metadata::response_from_request(&query.metadata);
        answer.metadata.recursion_available = true;
        answer.add_queries(query.queries.iter().cloned());
        if query.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM_BYTES_MAX);
            answer.set_edns(edns);
        }
        answer.metadata.response_code = self.fill(&query, &mut answer).await;
        let bytes = answer.to_vec().ok().filter(|bytes| bytes.len() <= ANSWER_BYTES_MAX);
        bytes.or_else(|| {
            Message::error_msg(query.metadata.id, query.metadata.op_code, ResponseCode::ServFail).to_vec().ok()
        })
    }

    /// Adds the records that answer a question.
    async fn fill(&self, query: &Message, answer: &mut Message) -> ResponseCode {
        let [question] = query.queries.as_slice() else { return ResponseCode::FormErr };
        if query.metadata.op_code != OpCode::Query {
            return ResponseCode::NotImp;
        }
        let transfers = [RecordType::ANY, RecordType::AXFR, RecordType::IXFR];
        if question.query_class != DNSClass::IN || transfers.contains(&question.query_type) {
            return ResponseCode::NotImp;
        }
        let mut name = question.name.clone();
        // The guest has its own search list.
        name.set_fqdn(true);
        match self.resolver.lookup(name, question.query_type).await {
            Ok(lookup) => {
                answer.add_answers(lookup.answers().iter().cloned());
                ResponseCode::NoError
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
                if let Some(soa) = nothing.soa {
                    answer.add_authority((*soa).into_record_of_rdata());
                }
                nothing.response_code
            }
            Err(NetError::Dns(DnsError::ResponseCode(code))) => code,
            Err(error) => {
                tracing::debug!(name = %question.name, %error, "a name could not be resolved");
                ResponseCode::ServFail
            }
        }
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Names").finish_non_exhaustive()
    }
}
