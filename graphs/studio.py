"""The built-in graphs for LangGraph's dev server and its Studio, which find them through `langgraph.json`."""

from tutelage.generation.studio import twin
from tutelage.graphs.debate import debate as make_debate
from tutelage.graphs.lesson import lesson as make_lesson
from tutelage.graphs.open_book import open_book as make_open_book
from tutelage.graphs.peers import peers as make_peers
from tutelage.graphs.socratic import socratic as make_socratic

lesson = twin(make_lesson)
socratic = twin(make_socratic)
debate = twin(make_debate)
peers = twin(make_peers)
open_book = twin(make_open_book)
