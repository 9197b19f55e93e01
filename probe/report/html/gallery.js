// The gallery of attention maps: small pictures, and one of them large. Arrow keys turn the pages, Escape closes.

function makeGallery() {
  const { pictures, left_out } = data.gallery;
  byId("attention").hidden = !pictures.length && !left_out;
  if (left_out) byId("attention-left-out").append(`${countText(left_out)} more ${left_out === 1 ? "picture is" : "pictures are"} not on this page: too many, or damaged. The folder attention of the run has all.`);
  const captionOf = (each) => [`${each.head}, layer ${each.layer}`, `${each.title}; ${each.source}`];
  const asImage = (each) => make("img", { src: each.image, width: each.width, height: each.height, alt: `${captionOf(each)[0]}: ${each.title}` });
  const dialog = byId("viewer"), place = byId("viewer-picture"), words = byId("viewer-words");
  let at = 0;
  function show(number) {
    at = (number + pictures.length) % pictures.length;
    const each = pictures[at], [head, about] = captionOf(each);
    place.replaceChildren(asImage(each));
    words.replaceChildren(make("b", {}, head), ` ${about} (${at + 1} of ${pictures.length})`, make("span", { class: "cell" }, `cell ${each.cell}`));
  }
  byId("gallery").append(...pictures.map((each, number) => make("figure", {},
    make("figcaption", {}, captionOf(each)[0], make("small", {}, captionOf(each)[1])),
    make("button", { type: "button", class: "picture", "aria-label": `${captionOf(each)[0]}: ${each.title}. Show it large.`, onclick: () => { show(number); dialog.showModal(); } }, asImage(each)))));
  byId("viewer-before").addEventListener("click", () => show(at - 1));
  byId("viewer-after").addEventListener("click", () => show(at + 1));
  byId("viewer-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(at + step);
  });
}
