//! The sending side against a network that answers what it is told to, when it is told to.

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use swarmer_model::wire;
use tokio::sync::mpsc;

use super::*;
use crate::{
    adapter::types::decode,
    transport::{ChannelReceiver, ChannelSender},
};

/// So long that no test, however slow its machine, comes to the end of its patience.
const LONG: Duration = Duration::from_secs(10);

/// The other end of an opened channel.
struct End {
    messages: mpsc::Receiver<Bytes>,
    answers: mpsc::Sender<Bytes>,
}

struct Fake(mpsc::Sender<End>);

#[async_trait]
impl Transport for Fake {
    fn version(&self, _: NodeId) -> u8 {
        wire::NEWEST
    }

    fn round_trip(&self, _: NodeId) -> Option<Duration> {
        None
    }

    async fn call(&self, _: NodeId, _: u8, _: Bytes, _: Duration) -> Result<Bytes, TransportError> {
        Err(TransportError::Unreachable("not here".to_owned()))
    }

    async fn open(&self, _: NodeId, _: Duration) -> Result<Channel, TransportError> {
        let (sender, messages) = mpsc::channel(1000);
        let (answers, receiver) = mpsc::channel(1000);
        let end = End { messages, answers };
        self.0.try_send(end).map_err(|_| TransportError::Unreachable("gone".to_owned()))?;
        let receiver = Mutex::new(receiver);
        Ok(Channel { sender: Box::new(FakeSender(sender)), receiver: Box::new(Answers(receiver)) })
    }
}

struct FakeSender(mpsc::Sender<Bytes>);

#[async_trait]
impl ChannelSender for FakeSender {
    fn push(&mut self, message: Bytes) {
        self.0.try_send(message).unwrap();
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        Ok(())
    }
}

struct Answers(Mutex<mpsc::Receiver<Bytes>>);

#[async_trait]
impl ChannelReceiver for Answers {
    async fn receive(&mut self) -> Result<Bytes, TransportError> {
        let answer = self.0.get_mut().recv().await;
        answer.ok_or_else(|| TransportError::Failed("closed".to_owned()))
    }
}

fn appender() -> (Appender, mpsc::Receiver<End>, Arc<Latency>) {
    let (opened, ends) = mpsc::channel(100);
    let latency = Arc::new(Latency::default());
    (Appender::new(1, 2, Arc::new(Fake(opened)), latency.clone()), ends, latency)
}

/// Of term 1 and node 1.
fn log_id(index: u8) -> LogId {
    decode("a log id", &[1, 1, index]).unwrap()
}

/// An empty request after this index.
fn request(prev: u8) -> AppendEntriesRequest<Types> {
    decode("a request", &[1, 1, 1, 1, 1, 1, prev, 0, 0]).unwrap()
}

fn answer(result: StreamAppendResult<Types>) -> Bytes {
    framed(&Appended(result)).unwrap()
}

fn requests(prevs: std::ops::Range<u8>) -> impl Stream<Item = AppendEntriesRequest<Types>> + Unpin {
    futures::stream::iter(prevs.map(request))
}

#[tokio::test]
async fn requests_go_out_before_answers_come_up_to_the_bound() {
    let (mut appender, mut ends, _) = appender();
    let mut answers = appender.run(requests(0..100), LONG).await.unwrap();
    let mut end = ends.recv().await.unwrap();
    for round in 0..20 {
        assert!(futures::poll!(answers.next()).is_pending());
        assert_eq!(end.messages.len(), MAX_IN_FLIGHT);
        end.messages.recv().await.unwrap();
        end.answers.try_send(answer(Ok(Some(log_id(round))))).unwrap();
        assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(log_id(round))));
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_breaks_the_channel_and_it_is_opened_again_after_a_pause() {
    let (mut appender, mut ends, latency) = appender();
    let start = Instant::now();
    {
        let mut answers = appender.run(requests(0..3), Duration::from_millis(20)).await.unwrap();
        let late = answers.next().await.unwrap();
        assert!(matches!(late, Err(RPCError::Timeout(_))), "{late:?}");
        assert!(answers.next().await.is_none());
    }
    let end = ends.recv().await.unwrap();
    assert!(end.answers.is_closed(), "the channel is still there");
    assert_eq!(latency.read().unanswered, 3);
    let pause = appender.not_before.unwrap();
    assert!(pause >= start + Duration::from_millis(20) * PATIENCE + REOPEN_MIN);
    // That pause may be over by now; this one is not.
    appender.not_before = Some(start + Duration::from_secs(3600));
    {
        let mut early = std::pin::pin!(appender.run(requests(0..1), LONG));
        assert!(futures::poll!(early.as_mut()).is_pending(), "the engine would try for ever");
    }
    assert!(ends.try_recv().is_err(), "it opened a channel all the same");
    appender.not_before = Some(Instant::now());
    let mut answers = appender.run(requests(0..1), LONG).await.unwrap();
    assert!(futures::poll!(answers.next()).is_pending());
    let end = ends.recv().await.unwrap();
    end.answers.try_send(answer(Ok(Some(log_id(0))))).unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(log_id(0))));
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_is_not_taken_for_the_next() {
    let (mut appender, mut ends, latency) = appender();
    {
        let mut given_up = appender.run(requests(1..2), LONG).await.unwrap();
        assert!(futures::poll!(given_up.next()).is_pending());
    }
    let end = ends.recv().await.unwrap();
    let mut answers = appender.run(requests(2..3), LONG).await.unwrap();
    assert!(futures::poll!(answers.next()).is_pending());
    for index in [1, 2] {
        end.answers.try_send(answer(Ok(Some(log_id(index))))).unwrap();
    }
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(log_id(2))));
    assert!(answers.next().await.is_none());
    drop(answers);
    assert_eq!(latency.read().buckets.iter().sum::<u64>(), 2);
    assert!(ends.try_recv().is_err(), "it opened another channel");
}

#[tokio::test]
async fn an_answer_that_no_request_could_have_breaks_the_channel() {
    let conflict = |index| Err(StreamAppendError::Conflict(log_id(index)));
    let odd: [Bytes; 3] = [answer(Ok(Some(log_id(6)))), answer(conflict(4)), Bytes::from("?")];
    for odd in odd {
        let (mut appender, mut ends, _) = appender();
        let mut answers = appender.run(requests(5..6), LONG).await.unwrap();
        let end = ends.recv().await.unwrap();
        assert!(futures::poll!(answers.next()).is_pending());
        end.answers.try_send(odd).unwrap();
        let error = answers.next().await.unwrap();
        assert!(matches!(error, Err(RPCError::Network(_))), "{error:?}");
        assert!(end.answers.is_closed());
    }
}

#[tokio::test]
async fn a_refusal_is_told_and_the_next_stream_has_a_fresh_channel_at_once() {
    let (mut appender, mut ends, _) = appender();
    {
        let mut answers = appender.run(requests(5..7), LONG).await.unwrap();
        let end = ends.recv().await.unwrap();
        assert!(futures::poll!(answers.next()).is_pending());
        let refusal = Err(StreamAppendError::Conflict(log_id(5)));
        end.answers.try_send(answer(refusal.clone())).unwrap();
        assert_eq!(answers.next().await.unwrap().unwrap(), refusal);
        assert!(answers.next().await.is_none());
    }
    assert!(appender.run(requests(4..5), LONG).await.is_ok());
    assert!(ends.try_recv().is_ok());
}
