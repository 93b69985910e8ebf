//! A web shop that never closes: believable events, made up.
//!
//! Pure but for its random numbers. Orders are keyed by customer, payments by order, so that what belongs together is
//! in one partition.

use std::collections::VecDeque;

use serde::Serialize;

use crate::record::Timestamp;

/// Topics with their number of partitions.
pub(super) const TOPICS: [(&str, i32); 2] = [("orders", 3), ("payments", 2)];

/// Orders between an order and its payment.
const PAYMENT_DELAY: usize = 40;

const GOODS: [(&str, &str, u64); 8] = [
    ("SKU-1042", "Espresso cups, set of 4", 2_490),
    ("SKU-1077", "Moka pot, 6 cups", 3_495),
    ("SKU-1130", "Filter paper no. 4, 100 pieces", 429),
    ("SKU-1218", "Hand grinder, steel burrs", 8_900),
    ("SKU-1305", "Ethiopia Guji, whole beans, 1 kg", 3_150),
    ("SKU-1306", "Colombia Huila, whole beans, 1 kg", 2_875),
    ("SKU-1450", "Gooseneck kettle, 0.9 l", 6_990),
    ("SKU-1502", "Milk jug, 350 ml", 1_990),
];

const PLACES: [(&str, &str, &str); 6] = [
    ("Zürich", "CH", "CHF"),
    ("Berlin", "DE", "EUR"),
    ("Lyon", "FR", "EUR"),
    ("Leeds", "GB", "GBP"),
    ("Kraków", "PL", "PLN"),
    ("Porto", "PT", "EUR"),
];

const SOURCES: [&str; 3] = ["web-shop", "mobile-app", "partner-api"];

const METHODS: [&str; 4] = ["card", "invoice", "paypal", "twint"];

/// An event, ready to be produced.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) topic: &'static str,
    pub(super) key: String,
    /// JSON.
    pub(super) value: Vec<u8>,
    /// The header `trace-id`; a payment has its order's.
    pub(super) trace_id: String,
    /// The header `source`.
    pub(super) source: &'static str,
}

#[derive(Serialize)]
struct Order<'a> {
    order_id: &'a str,
    customer_id: &'a str,
    placed_at: String,
    items: Vec<Item>,
    total: String,
    currency: &'static str,
    ship_to: Address,
}

#[derive(Serialize)]
struct Item {
    sku: &'static str,
    name: &'static str,
    quantity: u64,
    unit_price: String,
}

#[derive(Serialize)]
struct Address {
    city: &'static str,
    country: &'static str,
}

#[derive(Serialize)]
struct Payment<'a> {
    payment_id: String,
    order_id: &'a str,
    paid_at: String,
    method: &'static str,
    amount: &'a str,
    currency: &'static str,
    status: &'static str,
}

/// An order that is about to be paid.
struct Unpaid {
    order_id: String,
    amount: String,
    currency: &'static str,
    trace_id: String,
}

/// The shop.
pub(super) struct Shop {
    random: fastrand::Rng,
    orders: u64,
    payments: u64,
    unpaid: VecDeque<Unpaid>,
}

impl Shop {
    /// Opens the shop.
    pub(super) fn new() -> Self {
        Self { random: fastrand::Rng::new(), orders: 0, payments: 0, unpaid: VecDeque::new() }
    }

    /// Makes the next event: an order, or the payment of one before.
    pub(super) fn event(&mut self) -> Event {
        if self.unpaid.len() > PAYMENT_DELAY && self.random.bool() {
            let unpaid = self.unpaid.pop_front().expect("there are more than the delay");
            return self.payment(unpaid);
        }
        self.order()
    }

    fn order(&mut self) -> Event {
        self.orders += 1;
        let order_id = format!("ord-{:08}", self.orders);
        // Some customers order again and again, most once.
        let customer_id = format!("cust-{:06}", (self.random.f64().powi(3) * 250_000.0) as u64);
        let (city, country, currency) = PLACES[self.random.usize(..PLACES.len())];
        let mut cents = 0;
        let items = (0..self.random.usize(1..=3)).map(|_| {
            let (sku, name, price) = GOODS[self.random.usize(..GOODS.len())];
            let quantity = self.random.u64(1..=4);
            cents += quantity * price;
            Item { sku, name, quantity, unit_price: amount(price) }
        });
        let items = items.collect();
        let (total, trace_id) = (amount(cents), format!("{:032x}", self.random.u128(..)));
        let order = Order {
            order_id: &order_id,
            customer_id: &customer_id,
            placed_at: Timestamp::now().to_string(),
            items,
            total: total.clone(),
            currency,
            ship_to: Address { city, country },
        };
        let value = json(&order);
        // Two of three are paid.
        if self.random.u8(..3) > 0 {
            self.unpaid.push_back(Unpaid { order_id, amount: total, currency, trace_id: trace_id.clone() });
        }
        let source = SOURCES[self.random.usize(..SOURCES.len())];
        Event { topic: TOPICS[0].0, key: customer_id, value, trace_id, source }
    }

    fn payment(&mut self, unpaid: Unpaid) -> Event {
        self.payments += 1;
        let payment = Payment {
            payment_id: format!("pay-{:08}", self.payments),
            order_id: &unpaid.order_id,
            paid_at: Timestamp::now().to_string(),
            method: METHODS[self.random.usize(..METHODS.len())],
            amount: &unpaid.amount,
            currency: unpaid.currency,
            status: if self.random.u8(..50) == 0 { "declined" } else { "captured" },
        };
        let value = json(&payment);
        Event { topic: TOPICS[1].0, key: unpaid.order_id, value, trace_id: unpaid.trace_id, source: "payment-gateway" }
    }
}

fn amount(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn json(event: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(event).expect("plain values have a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payment_is_of_an_order_before_it_and_has_its_trace() {
        let mut shop = Shop::new();
        let events: Vec<Event> = (0..1000).map(|_| shop.event()).collect();
        let (orders, payments): (Vec<_>, Vec<_>) = events.iter().partition(|event| event.topic == "orders");
        assert!(payments.len() > 200, "{} payments", payments.len());
        for payment in payments {
            let value: serde_json::Value = serde_json::from_slice(&payment.value).expect("JSON");
            let order = orders.iter().find(|order| order.trace_id == payment.trace_id).expect("its order");
            let order: serde_json::Value = serde_json::from_slice(&order.value).expect("JSON");
            assert_eq!((&value["order_id"], &value["amount"]), (&order["order_id"], &order["total"]));
        }
    }
}
