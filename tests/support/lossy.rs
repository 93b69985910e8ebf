//! A front before an S3 server that performs every request, and of some that create an object loses the answer: the
//! connection breaks, as when a switch dies at the wrong moment. The client cannot know whether the object is there.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The answer to one creation in this many gets lost.
const ONE_IN: usize = 20;

/// How often in a row: once, which the client's own retry meets; or as often as it tries, so that it must ask.
const IN_A_ROW: [usize; 2] = [1, 3];

/// The front. It ends with the process.
pub(crate) struct Lossy {
    server: String,
    client: reqwest::Client,
    creations: AtomicUsize,
    /// How many answers about a key are still to be lost; a key is there once.
    losing: Mutex<HashMap<String, usize>>,
    lost: AtomicUsize,
}

impl Lossy {
    /// Starts a front before `server`, as `http://host:port`; returns it and its own address of that form.
    pub(crate) fn start(server: &str) -> (&'static Self, String) {
        // The features of the agent's HTTP client, which are this one's too, bring no cryptography of their own.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let front: &'static Self = Box::leak(Box::new(Self {
            server: server.into(),
            client,
            creations: AtomicUsize::new(0),
            losing: Mutex::default(),
            lost: AtomicUsize::new(0),
        }));
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("this machine has a free port");
                sender.send(listener.local_addr().expect("a bound socket has an address")).expect("it is waited for");
                front.listen(listener).await
            });
        });
        (front, format!("http://{}", receiver.recv().expect("the front starts")))
    }

    /// Returns how many answers were lost.
    pub(crate) fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }

    async fn listen(&'static self, listener: TcpListener) -> Infallible {
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                let service = service_fn(move |request| self.answer(request));
                // An error is a client that went, or an answer that was lost.
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
        let (head, body) = request.into_parts();
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut creates = matches!(head.method, Method::PUT) && !target.contains("partNumber=");
        creates |= head.method == Method::POST && target.contains("uploadId=");
        let key = head.uri.path().to_owned();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        // The host is part of what is signed: it stays that of the front.
        let asked =
            self.client.request(head.method, format!("{}{target}", self.server)).headers(head.headers).body(body);
        let answer = asked.send().await?;
        let (status, headers, body) = (answer.status(), answer.headers().clone(), answer.bytes().await?);
        if creates && self.loses(&key) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return Err("the answer is lost".into());
        }
        let mut answer = Response::builder().status(status);
        for (name, value) in headers.iter().filter(|(name, _)| *name != "transfer-encoding" && *name != "connection") {
            answer = answer.header(name, value);
        }
        Ok(answer.body(Full::new(body)).expect("the parts of an answer"))
    }

    fn loses(&self, key: &str) -> bool {
        let mut losing = self.losing.lock().expect("nobody panics while holding it");
        if let Some(left) = losing.get_mut(key) {
            *left = left.saturating_sub(1);
            return *left > 0;
        }
        let number = self.creations.fetch_add(1, Ordering::Relaxed);
        let times = if number % ONE_IN == 3 { IN_A_ROW[number / ONE_IN % 2] } else { 0 };
        losing.insert(key.to_owned(), times);
        times > 0
    }
}
