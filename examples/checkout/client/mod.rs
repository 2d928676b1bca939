//! The customers: a crowd that pays for the orders of the day, over HTTP and nothing else.

mod customer;
mod network;
mod tally;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use self::network::Network;
pub(crate) use self::tally::Tally;
use crate::plan::Order;
use crate::wire::Figures;

/// How many customers pay at the same time.
const AT_ONCE: usize = 64;

/// Everyone with something to pay.
pub(crate) struct Crowd {
    orders: Arc<[Order]>,
    network: Arc<Network>,
    tally: Arc<Tally>,
}

impl Crowd {
    pub(crate) fn new(server: SocketAddr, loss: f64, orders: Vec<Order>) -> Crowd {
        let tally = Arc::new(Tally::default());
        let network = Arc::new(Network::new(server, loss, tally.clone()));
        Crowd {
            orders: orders.into(),
            network,
            tally,
        }
    }

    pub(crate) fn orders(&self) -> &[Order] {
        &self.orders
    }

    /// How many orders are done with.
    pub(crate) fn done(&self) -> u64 {
        self.tally.done.get()
    }

    /// Whether the day goes on.
    pub(crate) fn is_paying(&self) -> bool {
        self.done() < self.orders.len() as u64
    }

    /// Pays for every order, with a bar on the terminal meanwhile.
    pub(crate) async fn pay_everything(&self) -> Result<Arc<Tally>, Box<dyn Error>> {
        let bar = progress_bar(self.orders.len())?;
        let next = Arc::new(AtomicUsize::new(0));
        let mut customers = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (orders, network) = (self.orders.clone(), self.network.clone());
            let (tally, next, bar) = (self.tally.clone(), next.clone(), bar.clone());
            customers.spawn(async move {
                while let Some(order) = orders.get(next.fetch_add(1, Ordering::Relaxed)) {
                    customer::pay(order, &network, &tally).await;
                    tally.done.add();
                    bar.inc(1);
                }
            });
        }
        while let Some(done) = customers.join_next().await {
            done?;
        }
        bar.finish_and_clear();
        Ok(self.tally.clone())
    }

    /// The server's own figures, if it keeps any.
    pub(crate) async fn ask_for_figures(&self) -> Option<Figures> {
        self.network.figures().await
    }
}

fn progress_bar(orders: usize) -> Result<ProgressBar, Box<dyn Error>> {
    let style = "{elapsed:>4} {bar:40} {pos}/{len} orders paid, {eta} to go";
    Ok(ProgressBar::new(orders as u64).with_style(ProgressStyle::with_template(style)?))
}
