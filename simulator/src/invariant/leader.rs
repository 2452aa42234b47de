//! One leader: the engine orders leaders by term and node id, so within a term a later leader has
//! a higher id, and none comes back once a higher one leads.

use std::collections::BTreeMap;

use swarmer_model::NodeId;

#[derive(Default)]
pub(crate) struct Leaders(BTreeMap<u64, Vec<NodeId>>);

impl Leaders {
    /// A node says that it leads. Whether that is news, or what is wrong with it.
    pub(crate) fn leads(&mut self, node: NodeId, term: u64) -> Result<bool, String> {
        let leaders = self.0.entry(term).or_default();
        if leaders.contains(&node) {
            return Ok(false);
        }
        if let Some(last) = leaders.last()
            && *last > node
        {
            return Err(format!("term {term}: node {} leads after node {} did", node.0, last.0));
        }
        leaders.push(node);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_a_term_leaders_rise() {
        let mut leaders = Leaders::default();
        for (node, term, news) in [(1, 1, Ok(true)), (3, 1, Ok(true)), (1, 1, Ok(false))] {
            assert_eq!(leaders.leads(NodeId(node), term), news);
        }
        assert!(leaders.leads(NodeId(2), 1).is_err());
        assert_eq!(leaders.leads(NodeId(2), 2), Ok(true));
    }
}
