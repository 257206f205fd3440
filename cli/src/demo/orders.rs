//! The orders of the demo: one CSV row each, checked before anything is started.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::CommandError;
use crate::quantity::{counted, grouped};

/// The orders the binary carries.
const SHIPPED: &str = include_str!("../../data/orders.csv");
/// What the shipped file is called in messages.
const SHIPPED_NAME: &str = "orders.csv (shipped)";

/// The columns, in the order of the shipped file. Any order will do.
const COLUMNS: [&str; 7] = ["order_id", "customer", "email", "sku", "quantity", "cents", "card"];
/// How many problems of a file are told.
const PROBLEMS_MAX: usize = 10;
/// How many orders one demo takes.
const ORDERS_MAX: usize = 100_000;
/// The largest amount of one order, in cents.
const CENTS_MAX: u64 = 100_000_000;
/// The most pieces of one order.
const QUANTITY_MAX: u64 = 10_000;
/// The longest text in a column, in bytes.
const TEXT_BYTES_MAX: usize = 200;

/// One order, the input of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Names the run too.
    pub(crate) order_id: String,
    /// Who ordered.
    pub(crate) customer: String,
    /// Where the mail goes.
    pub(crate) email: String,
    /// What.
    pub(crate) sku: String,
    /// How many.
    pub(crate) quantity: u64,
    /// What is charged.
    pub(crate) cents: u64,
    /// What it is charged to.
    pub(crate) card: String,
}

/// The orders of `path`, or the shipped ones; at most `limit` of them. Nothing is returned unless
/// every row is sound.
pub(crate) fn read(path: Option<&Path>, limit: Option<usize>) -> Result<Vec<Order>, CommandError> {
    let mut orders = match path {
        None => parse(SHIPPED_NAME, SHIPPED.as_bytes())?,
        Some(path) => {
            let bytes = std::fs::read(path).map_err(|e| {
                CommandError::bad_input(format!("{} cannot be read", path.display())).caused_by(&e)
            })?;
            parse(&path.display().to_string(), &bytes)?
        }
    };
    if let Some(limit) = limit {
        orders.truncate(limit);
    }
    Ok(orders)
}

/// Reads and checks a whole file.
fn parse(name: &str, bytes: &[u8]) -> Result<Vec<Order>, CommandError> {
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .has_headers(false)
        .trim(csv::Trim::All)
        .from_reader(bytes);
    let mut problems = Problems { name, found: Vec::new() };
    let mut columns = None;
    let mut orders = Vec::new();
    let mut lines: BTreeMap<String, u64> = BTreeMap::new();
    let mut record = csv::ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {}
            Err(error) => {
                problems.add(error.position().map_or(0, csv::Position::line), &error.to_string());
                break;
            }
        }
        let line = line_of(&record, bytes);
        let Some(columns) = &columns else {
            match header(&record) {
                Ok(found) => columns = Some(found),
                Err(problem) => return Err(problems.alone(line, &problem)),
            }
            continue;
        };
        match row(columns, &record) {
            Ok(order) => match lines.insert(order.order_id.clone(), line) {
                Some(first) => problems.add(
                    line,
                    &format!("order_id `{}` is on line {first} already", order.order_id),
                ),
                None => orders.push(order),
            },
            Err(found) => found.iter().for_each(|problem| problems.add(line, problem)),
        }
    }
    problems.done(orders)
}

/// The line a record begins on: the reader's own count stands before any blank lines it skipped.
fn line_of(record: &csv::ByteRecord, bytes: &[u8]) -> u64 {
    let Some(position) = record.position() else {
        return 0;
    };
    let from = usize::try_from(position.byte()).unwrap_or(bytes.len()).min(bytes.len());
    let blank = bytes[from..].iter().take_while(|b| matches!(b, b'\r' | b'\n'));
    position.line() + blank.filter(|b| **b == b'\n').count() as u64
}

/// Where each of [`COLUMNS`] stands.
fn header(record: &csv::ByteRecord) -> Result<Vec<usize>, String> {
    let names: Vec<String> = record
        .iter()
        .map(|name| String::from_utf8_lossy(name).trim_start_matches('\u{feff}').to_owned())
        .collect();
    let missing: Vec<String> = COLUMNS
        .iter()
        .filter(|c| !names.iter().any(|n| n == *c))
        .map(|c| format!("`{c}`"))
        .collect();
    if !missing.is_empty() {
        return Err(format!(
            "the header lacks {}; expected {}",
            missing.join(", "),
            COLUMNS.join(",")
        ));
    }
    if let Some(unknown) = names.iter().find(|n| !COLUMNS.contains(&n.as_str())) {
        return Err(format!("the column `{unknown}` is not known; expected {}", COLUMNS.join(",")));
    }
    if names.len() != COLUMNS.len() {
        return Err(format!("a column stands there twice; expected {}", COLUMNS.join(",")));
    }
    Ok(COLUMNS.iter().filter_map(|c| names.iter().position(|n| n == c)).collect())
}

/// One order, or all that is wrong with its row.
fn row(columns: &[usize], record: &csv::ByteRecord) -> Result<Order, Vec<String>> {
    if record.len() != columns.len() {
        let fields = counted(record.len() as u64, "field", "fields");
        return Err(vec![format!("the row has {fields}, the header {}", columns.len())]);
    }
    let mut problems = Vec::new();
    let mut texts = columns.iter().zip(COLUMNS).map(|(&index, column)| {
        text(column, record.get(index).unwrap_or_default()).unwrap_or_else(|problem| {
            problems.push(problem);
            String::new()
        })
    });
    let mut next = || texts.next().unwrap_or_default();
    let (order_id, customer, email, sku) = (next(), next(), next(), next());
    let (quantity, cents, card) = (next(), next(), next());
    drop(texts);
    let mut number = |column: &str, text: &str, max: u64| match text.parse() {
        _ if text.is_empty() => 0,
        Ok(number) if (1..=max).contains(&number) => number,
        _ => {
            problems.push(format!(
                "{column} `{text}` is not a whole number from 1 to {}",
                grouped(max)
            ));
            0
        }
    };
    let (quantity, cents) =
        (number("quantity", &quantity, QUANTITY_MAX), number("cents", &cents, CENTS_MAX));
    if !email.is_empty() && !is_address(&email) {
        problems.push(format!("email `{email}` is not an address like name@example.com"));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Order { order_id, customer, email, sku, quantity, cents, card })
}

fn text(column: &str, bytes: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| format!("{column} is not UTF-8"))?;
    if text.is_empty() {
        return Err(format!("{column} is empty"));
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!(
            "{column} has {} bytes, at most {TEXT_BYTES_MAX} are allowed",
            text.len()
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{column} holds a control character"));
    }
    Ok(text.to_owned())
}

/// Whether a mail can go there.
pub(crate) fn is_address(text: &str) -> bool {
    let whole = !text.contains(char::is_whitespace);
    whole
        && text.split_once('@').is_some_and(|(name, host)| {
            !name.is_empty()
                && !host.contains('@')
                && host.split('.').count() > 1
                && host.split('.').all(|l| !l.is_empty())
        })
}

struct Problems<'a> {
    name: &'a str,
    found: Vec<String>,
}

impl Problems<'_> {
    fn add(&mut self, line: u64, problem: &str) {
        self.found.push(format!("{}:{line}: {problem}", self.name));
    }

    fn alone(mut self, line: u64, problem: &str) -> CommandError {
        self.add(line, problem);
        self.error()
    }

    fn done(mut self, orders: Vec<Order>) -> Result<Vec<Order>, CommandError> {
        if self.found.is_empty() && orders.is_empty() {
            return Err(self.alone(1, "there are no orders in the file"));
        }
        if self.found.is_empty() && orders.len() > ORDERS_MAX {
            let problem = format!(
                "{} orders are more than the {} allowed",
                grouped(orders.len() as u64),
                grouped(ORDERS_MAX as u64)
            );
            self.add(1, &problem);
        }
        if self.found.is_empty() { Ok(orders) } else { Err(self.error()) }
    }

    fn error(self) -> CommandError {
        let more = self.found.len().saturating_sub(PROBLEMS_MAX);
        let mut message = self.found[..self.found.len().min(PROBLEMS_MAX)].join("\n       ");
        if more > 0 {
            message.push_str(&format!(
                "\n       … and {}",
                counted(more as u64, "further problem", "further problems")
            ));
        }
        CommandError::bad_input(message)
            .hint("nothing was started; mend the file and run the command again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "order_id,customer,email,sku,quantity,cents,card\n";

    fn problems_of(text: &str) -> Vec<String> {
        let error = parse("o.csv", text.as_bytes()).unwrap_err();
        assert_eq!(error.exit, crate::failure::USAGE);
        error.message.lines().map(|l| l.trim().to_owned()).collect()
    }

    #[test]
    fn the_shipped_orders_are_sound() {
        let orders = read(None, None).unwrap();
        assert_eq!(orders.len(), 2_000);
        assert_eq!(read(None, Some(60)).unwrap().len(), 60);
    }

    #[test]
    fn columns_may_stand_in_any_order() {
        let text = "card,cents,quantity,sku,email,customer,order_id\nvisa-1,500,1,mug,a@b.cd,Ada,order-1\n";
        let orders = parse("o.csv", text.as_bytes()).unwrap();
        assert_eq!((orders[0].order_id.as_str(), orders[0].cents), ("order-1", 500));
    }

    #[test]
    fn each_problem_is_told_with_its_line() {
        let text = format!(
            "{HEADER}order-1,Ada,ada@b.cd,mug,1,500,visa-1\n\norder-2,Ben,nowhere,mug,0,x,visa-2\norder-1,Ada,a@b.cd,mug,1,500,visa-1\norder-3,too,few\n"
        );
        assert_eq!(
            problems_of(&text),
            [
                "o.csv:4: quantity `0` is not a whole number from 1 to 10,000",
                "o.csv:4: cents `x` is not a whole number from 1 to 100,000,000",
                "o.csv:4: email `nowhere` is not an address like name@example.com",
                "o.csv:5: order_id `order-1` is on line 2 already",
                "o.csv:6: the row has 3 fields, the header 7",
            ]
        );
    }

    #[test]
    fn a_wrong_header_is_told() {
        assert!(
            problems_of("order_id,customer\n")[0]
                .starts_with("o.csv:1: the header lacks `email`, `sku`")
        );
        assert_eq!(problems_of(HEADER), ["o.csv:1: there are no orders in the file"]);
        assert_eq!(problems_of("")[0], "o.csv:1: there are no orders in the file");
    }

    #[test]
    fn ten_problems_are_told_and_the_rest_counted() {
        let text = format!("{HEADER}{}", "x\n".repeat(14));
        let told = problems_of(&text);
        assert_eq!(told.len(), 11);
        assert_eq!(told[10], "… and 4 further problems");
    }
}
