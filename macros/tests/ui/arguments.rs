//! Arguments and answers that no message can carry.

use std::borrow::Cow;

use gen_registry::{Context, Reply, worker};

struct Denylist(Vec<String>);

#[worker(key = String)]
impl Denylist {
    fn init() -> Self {
        Denylist(Vec::new())
    }

    #[cast]
    fn block(&mut self, sender: &str) {
        self.0.push(sender.to_owned());
    }

    #[cast]
    fn block_all(&mut self, senders: impl IntoIterator<Item = String>) {
        self.0.extend(senders);
    }

    #[cast]
    fn block_some(&mut self, senders: Vec<Cow<'_, str>>) {
        self.0.extend(senders.into_iter().map(Cow::into_owned));
    }

    #[cast]
    fn block_pair(&mut self, (first, second): (String, String)) {
        self.0.extend([first, second]);
    }

    #[cast]
    fn block_one_of(&mut self, reply: String, _: bool) {
        self.0.push(reply);
    }

    #[call]
    fn first(&self) -> Option<&str> {
        self.0.first().map(String::as_str)
    }

    #[call]
    fn all(&self) -> impl Iterator<Item = &String> {
        self.0.iter()
    }

    #[call]
    fn contains(&self, reply: String) -> bool {
        self.0.contains(&reply)
    }

    #[call]
    fn twice(&self, one: Reply<u64>, other: Reply<u64>) {
        one.send(1);
        other.send(2);
    }

    #[cast]
    fn contexts(&mut self, one: &mut Context<Self>, other: &mut Context<Self>) {
        let _ = (one, other);
    }

    // What these borrow is no part of the message.
    #[cast]
    fn fine(&mut self, name: &'static str, each: Box<dyn Fn(&str) -> bool + Send>, ctx: &Context<Self>) {
        self.0.retain(|sender| each(sender) && name != ctx.key());
    }
}

fn main() {}
