"""The built-in graphs for LangGraph's dev server and its Studio, which find them through `langgraph.json`."""

from tutelage.generation.studio import twin
from tutelage.graphs.debate import debate as make_debate
from tutelage.graphs.lesson import lesson as make_lesson

lesson = twin(make_lesson)
debate = twin(make_debate)
