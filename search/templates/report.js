// Paper has a width of its own, which graphs that fit themselves to the window do not know.
(function () {
  "use strict";
  const WHOLE = 680, IN_A_ROW = 330; // pixels of A4 between the margins
  const graphs = Array.from(document.querySelectorAll(".plotly-graph-div"));
  addEventListener("beforeprint", function () {
    for (const graph of graphs) {
      const width = graph.closest(".row") ? IN_A_ROW : WHOLE;
      Plotly.relayout(graph, { width: width, autosize: false });
    }
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });
  addEventListener("afterprint", function () {
    for (const graph of graphs) Plotly.relayout(graph, { width: null, autosize: true });
  });
})();
