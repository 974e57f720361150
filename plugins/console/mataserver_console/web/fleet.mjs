// Fleet: the Tritons, what they serve, the applications and consumers that ask them, what is asked.
import { may } from "./api.mjs";
import { Button, Segments } from "./controls.mjs";
import { Applications, NewApplication } from "./fleet_apps.mjs";
import { Consumers, NewConsumer } from "./fleet_consumers.mjs";
import { Model } from "./fleet_model.mjs";
import { Models, NewModel } from "./fleet_models.mjs";
import { NewTriton, Overview } from "./fleet_overview.mjs";
import { Traffic } from "./fleet_traffic.mjs";
import { Users } from "./fleet_users.mjs";
import { Bar } from "./frame.mjs";
import { html, useState } from "./html.mjs";
import { amend, useRoute } from "./route.mjs";

const PARTS = {
  overview: { title: "Overview", View: Overview, New: NewTriton, text: "Register a Triton", needs: "fleet:write" },
  models: { title: "Models", View: Models, New: NewModel, text: "Add a model", needs: "fleet:write" },
  apps: { title: "Applications", short: "Apps", View: Applications, New: NewApplication, text: "New application", needs: "fleet:write" },
  consumers: { title: "Consumers", View: Consumers, New: NewConsumer, text: "New consumer", needs: "fleet:write" },
  users: { title: "Users", View: Users },
  traffic: { title: "Traffic", View: Traffic },
};

export default function Fleet() {
  const { query } = useRoute();
  const [making, setMaking] = useState(false);
  const key = PARTS[query.get("part")] ? query.get("part") : "overview";
  const { View, New, text, needs } = PARTS[key];
  const options = Object.entries(PARTS).map(([name, part]) => [name, part.title]);
  const few = Object.entries(PARTS).map(([name, part]) => [name, part.short ?? part.title]);
  const change = (part) => { setMaking(false); amend({ part, model: "" }); };
  const model = key === "models" ? query.get("model") : null;
  return html`<${Bar} title="Fleet"><div class="wide"><${Segments} label="What of the fleet" options=${options} value=${key} onChange=${change}/></div><span class="grow"></span>
      ${New && !model && may(needs) && html`<${Button} primary icon="plus" onClick=${() => setMaking(true)}>${text}<//>`}<//>
    <div class="content"><div class="narrow even"><${Segments} label="What of the fleet, short" options=${few} value=${key} onChange=${change}/></div>${model ? html`<${Model} key=${model} name=${model}/>` : html`<${View} key=${key}/>`}</div>
    ${making && html`<${New} close=${() => setMaking(false)}/>`}`;
}
