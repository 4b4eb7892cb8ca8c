"""A model of LangChain's for base models, which go on with a text instead of answering a message."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from random import getrandbits
from typing import Any, Final

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from tutelage.errors import EndpointFailed, EndpointRefused
from tutelage.serving.chat_messages import KEPT_OF_CHOICE, KEPT_OF_REPLY, given, read_usage
from tutelage.serving.endpoint_model import Body, EndpointModel, Origin

COMPLETIONS_PATH: Final = "/completions"
Prompt = str | Sequence[int]
"""A text, or the ids of its tokens, which the server takes as they are: no start token is put before them."""
_NO_COMPLETION: Final = (KeyError, TypeError, AttributeError)
_OF_CHOICE: Final = (*KEPT_OF_CHOICE, "prompt_logprobs", "prompt_token_ids")


class CompletionsVLLM(EndpointModel, BaseLLM):
    """A base model at one or more vLLM endpoints: it is given the beginning of a text, and goes on with it.

        async with CompletionsVLLM(model="Qwen/Qwen3-4B-Base", url="http://gpu-1:8000/v1", max_tokens=50) as model:
            text = await model.ainvoke("The three primary colours are")
            candidates = await model.acomplete([785, 2326, 6028, 7987, 525], n=4, temperature=1.0)

    Fields, calls, pools and errors are those of `ChatVLLM`. Each `Generation` says in `generation_info` what a message of
    `ChatVLLM` says in `response_metadata`, and has the `usage`; of several candidates the first has that of all.
    A server makes 16 tokens where `max_tokens` is not given.
    """

    model_config = EndpointModel.model_config

    @property
    def _llm_type(self) -> str:
        return "vllm-completions"

    async def acomplete(
        self,
        prompt: Prompt,
        *,
        stop: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **options: Any,
    ) -> list[Generation]:
        """The candidates for what follows a text; LangChain's callbacks are told nothing of it.

        Args:
            prompt: The text, or the ids of its tokens.
            stop: Texts before which the completion ends.
            metadata: `dialogue`, `view` and `begun`, as in the config of any other call.
            **options: Sampling, and more for the body of the request.

        Raises:
            CallError: As `EndpointPool.post` has it.
        """
        return await self._complete(prompt, stop, Origin.of(metadata or {}, f"{getrandbits(128):032x}"), options)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        return self._run_alone(self._complete_all(prompts, stop, Origin.of_run(run_manager), kwargs))

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        return await self._complete_all(prompts, stop, Origin.of_run(run_manager), kwargs)

    async def _complete_all(
        self, prompts: list[str], stop: list[str] | None, origin: Origin, options: dict[str, Any]
    ) -> LLMResult:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._complete(prompt, stop, origin.part(number), options))
                    for number, prompt in enumerate(prompts)
                ]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the first to fail cancelled the others
        return LLMResult(generations=[[*task.result()] for task in tasks])

    async def _complete(
        self, prompt: Prompt, stop: list[str] | None, origin: Origin, options: dict[str, Any]
    ) -> list[Generation]:
        reply, endpoint = await self._post(COMPLETIONS_PATH, self._asking(prompt, stop), origin, options)
        try:
            return self._read(reply, endpoint, origin)
        except _NO_COMPLETION:
            raise _is_no_completion(endpoint) from None

    def _asking(self, prompt: Prompt, stop: list[str] | None) -> Body:
        sent = prompt if isinstance(prompt, str) else [*prompt]
        return lambda options: self._filled({"prompt": sent}, stop, options)

    def _read(self, reply: dict[str, Any], endpoint: str, origin: Origin) -> list[Generation]:
        details = {**self._asked(endpoint, origin), "id": reply.get("id"), **given(reply, KEPT_OF_REPLY)}
        usage: dict[str, Any] = {"usage": read_usage(reply.get("usage"))}
        generations = []
        for choice in reply["choices"]:
            info = {**details, "finish_reason": choice.get("finish_reason"), **given(choice, _OF_CHOICE), **usage}
            generations.append(Generation(text=choice["text"], generation_info=info))
            usage = {}
        if not generations:
            raise KeyError("choices")
        return generations

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        async with aclosing(self._pieces(prompt, stop, Origin.of_run(run_manager), kwargs)) as pieces:
            async for piece in pieces:
                if run_manager:
                    await run_manager.on_llm_new_token(piece.text, chunk=piece)
                yield piece

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        for piece in self._iterate_alone(self._pieces(prompt, stop, Origin.of_run(run_manager), kwargs)):
            if run_manager:
                run_manager.on_llm_new_token(piece.text, chunk=piece)
            yield piece

    async def _pieces(
        self, prompt: Prompt, stop: list[str] | None, origin: Origin, options: dict[str, Any]
    ) -> AsyncGenerator[GenerationChunk, None]:
        """The completion as it comes; the last piece is empty, and says where it came from."""
        events = self._stream_of(COMPLETIONS_PATH, self._asking(prompt, stop), origin, options)
        last: dict[str, Any] = {"finish_reason": None}
        async with aclosing(events):
            async for event, endpoint in events:
                try:
                    last |= {**self._asked(endpoint, origin), **given(event, ("id", *KEPT_OF_REPLY))}
                    if event.get("usage"):
                        last["usage"] = read_usage(event["usage"])
                    for choice in event["choices"]:
                        last |= given(choice, ("finish_reason", "stop_reason"))
                        pieces = given(choice, ("logprobs", "token_ids", "prompt_token_ids"))
                        if choice["text"] or pieces:
                            yield GenerationChunk(text=choice["text"], generation_info=pieces or None)
                except _NO_COMPLETION:
                    raise _is_no_completion(endpoint) from None
        if last["finish_reason"] is None:
            raise EndpointFailed(f"{last.get('endpoint')}{COMPLETIONS_PATH} ended its stream before the text was over")
        yield GenerationChunk(text="", generation_info=last)


def _is_no_completion(endpoint: str) -> EndpointRefused:
    return EndpointRefused(
        f"{endpoint}{COMPLETIONS_PATH} answered with JSON that is no completion: is that an OpenAI-compatible API?"
    )
