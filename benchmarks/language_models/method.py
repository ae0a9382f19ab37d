"""Language models as methods of the arena: they name marker lists and solve puzzles."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.arena.methods import LANGUAGE_MODEL
from benchmarks.arena.results import Method
from benchmarks.data.marker_lists import MarkerLists
from benchmarks.data.named_answers import Answer
from benchmarks.language_models import prompts as llm_prompts
from benchmarks.language_models.chat import Chat, Message, Reply
from benchmarks.scoring.answer_terms import AnswerTerms
from ontology.graph import Ontology
from zeroshot.decide.puzzle_files import Genes
from zeroshot.decide.puzzles import Answer as PuzzleAnswer
from zeroshot.decide.puzzles import Puzzle, read_response

PROMPTS = ("zero-shot", "cot")


@dataclass(frozen=True, kw_only=True)
class Price:
    """Dollars per million tokens."""

    prompt: float = 0.0
    completion: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Price":
        """Parse a price of prompt and completion tokens, as "2.5,10".

        Raises
        ------
        ValueError
            If it is not two numbers.
        """
        try:
            prompt, completion = map(float, text.split(","))
        except ValueError as error:
            raise ValueError(f"a price must be two numbers, as 2.5,10; got {text!r}") from error
        return cls(prompt=prompt, completion=completion)


class LanguageModel:
    """Language model whose free-text answers are mapped to terms.

    Parameters
    ----------
    chat: chat client
    prompt: prompt for marker lists, one of `PROMPTS`
    price: price of tokens; cached replies are included in the cost

    Attributes
    ----------
    notes: replies, failures and cost of the last task
    """

    def __init__(self, chat: Chat, ontology: Ontology, *, prompt: str, price: Price) -> None:
        if prompt not in PROMPTS:
            raise ValueError(f"unknown prompt {prompt!r}; known: {', '.join(PROMPTS)}")
        self.notes: tuple[str, ...] = ()
        self._chat = chat
        self._ontology = ontology
        self._prompt = prompt
        self._price = price

    def answers(self, lists: MarkerLists) -> list[Answer]:
        """Return an answer to each list, without a label if there was no usable reply."""
        terms = AnswerTerms(self._ontology, lists.broad_types)
        rows = list(zip(lists.genes, map(str, lists.tissues), strict=True))
        if self._prompt == "zero-shot":
            replies = self._chat.replies([llm_prompts.zero_shot(*row) for row in rows])
            asked = replies
        else:
            thoughts = self._chat.replies([llm_prompts.think(*row) for row in rows])
            # There is no second question if the reasoning failed.
            pairs = zip(rows, thoughts, strict=True)
            concluding = [
                llm_prompts.conclude(*row, thought.content)
                for row, thought in pairs
                if thought.content
            ]
            last = iter(self._chat.replies(concluding))
            replies = [next(last) if each.content else each for each in thoughts]
            asked = [*thoughts, *(each for each in replies if each.content)]
        found = [terms.answer(each.content) for each in replies]
        n_words = sum(bool(each.label) and not each.terms for each in found)
        self.notes = (
            *self._counted(asked, replies),
            f"{n_words} answers are not a term of the ontology",
        )
        return found

    def puzzle_answers(
        self, puzzles: Sequence[Puzzle], genes: Sequence[Genes]
    ) -> list[PuzzleAnswer | None]:
        """Return the labels of each puzzle, None if the reply has the wrong format."""
        questions: list[list[Message]] = [llm_prompts.match(each, genes) for each in puzzles]
        replies = self._chat.replies(questions)
        self.notes = self._counted(replies, replies)
        return [read_response((each.content or "").strip()) for each in replies]

    def _counted(self, asked: Sequence[Reply], last: Sequence[Reply]) -> tuple[str, ...]:
        prompt = sum(each.prompt_tokens for each in asked)
        completion = sum(each.completion_tokens for each in asked)
        cost = (prompt * self._price.prompt + completion * self._price.completion) / 1e6
        n_failed = sum(each.content is None for each in last)
        n_kept = sum(each.is_kept for each in asked)
        return (
            f"{len(asked):,} replies, {n_kept:,} of them cached, {n_failed} failed; "
            f"{prompt:,} prompt tokens and {completion:,} completion tokens, {cost:.2f} dollars",
        )


def language_model_method(chat: Chat, ontology: Ontology, *, prompt: str, price: Price) -> Method:
    """Return a language model as a method of the arena."""
    return Method(
        name=chat.name if prompt == "zero-shot" else f"{chat.name}, {prompt}",
        kind=LANGUAGE_MODEL,
        annotator=LanguageModel(chat, ontology, prompt=prompt, price=price),
        identity=f"{chat.identity} {prompt}",
    )
